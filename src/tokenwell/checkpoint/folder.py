"""A folder in Hugging Face layout: its config.json and which tensor lies in which of its files. No tensor data is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenwell.checkpoint.safetensors import LFS_POINTER, TensorInfo, read_header
from tokenwell.wire.errors import CheckpointError

INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_OTHER_WEIGHTS = ("*.gguf", "*.bin", "*.pt", "*.pth")


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """config.json as it is, and every tensor of all weight files, each header checked.

    Raises CheckpointError naming the folder, file or tensor that is wrong.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder. Give the folder that holds config.json and the *.safetensors files.")
    config = read_object(folder / "config.json", "the folder needs a Hugging Face config.json beside its weights")
    return config, read_tensors(folder)


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of the files that the index names; without an index, of all *.safetensors of the folder."""
    if not (folder / INDEX).exists():
        return _merge(_weight_files(folder))
    weight_map = _read_weight_map(folder / INDEX)
    tensors = _merge(folder / file for file in sorted(set(weight_map.values())))
    _check_index(folder / INDEX, weight_map, tensors)
    return tensors


def read_object(file: Path, why: str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError saying what is wrong with the file."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: {why}.") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
    if data.startswith(LFS_POINTER):
        raise CheckpointError(f"{file} is a Git LFS pointer. Run `git lfs pull` in its folder or download the file again.")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold a JSON object, not {type(value).__name__}. Download it again.")
    return value


def files_of(index: str, content: Mapping[str, Any]) -> dict[str, str]:
    """The file that holds each tensor, as the content of an index says. Raises CheckpointError naming the index."""
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f'{index} has no "weight_map" object with tensor names and files. Download it again.')
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} puts tensor {name!r} into {file!r}, which is not the name of a *.safetensors file in the folder."
            )
    return weight_map


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = files_of(str(index), read_object(index, "it lists the weight files"))
    for name, file in weight_map.items():
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index.parent / file} is missing; {index.name} says that it holds {name!r}. Download it.")
    return weight_map


def _check_index(index: Path, weight_map: dict[str, str], tensors: Mapping[str, TensorInfo]) -> None:
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            raise CheckpointError(
                f"{index.parent / file} does not hold tensor {name!r}, although {index.name} says so. "
                "The files are of different versions: download both again."
            )


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))
    # Mistral ships the same weights twice; "consolidated" ones carry its own tensor names.
    files = [file for file in files if not file.name.startswith("consolidated")] or files
    if not files:
        others = sorted({file.name for pattern in _OTHER_WEIGHTS for file in folder.glob(pattern)})
        found = f" It has {', '.join(others[:3])}, a format that is not supported here." if others else ""
        raise CheckpointError(f"{folder} has no *.safetensors files.{found} Download the safetensors version of the model.")
    present = {file.name for file in files}
    for file in files:
        if match := _NUMBERED.fullmatch(file.name):
            stem, _, count = match.groups()
            for number in range(1, int(count) + 1):
                if (expected := f"{stem}-{number:05}-of-{count}.safetensors") not in present:
                    raise CheckpointError(f"{folder / expected} is missing, while {file.name} is there. Download it.")
    return files


def _merge(files: Iterable[Path]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in read_header(file).items():
            if name in tensors:
                raise CheckpointError(
                    f"Tensor {name!r} is in both {tensors[name].file} and {file.name}. Remove the file that is too much."
                )
            tensors[name] = info
    return tensors
