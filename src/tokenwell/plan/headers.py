"""Which tensors a model's files hold, from their headers: a folder, a GGUF file or a repository of the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenwell.checkpoint.folder import read_object, read_tensors
from tokenwell.checkpoint.gguf import read_gguf
from tokenwell.checkpoint.hub import ENDPOINT, read_hub
from tokenwell.checkpoint.safetensors import TensorInfo
from tokenwell.plan.gguf import config_of, drafts_from
from tokenwell.plan.roles import role_of
from tokenwell.plan.tensors import TensorFacts


@dataclass(frozen=True, slots=True)
class Header:
    """What files say of themselves."""

    config: Mapping[str, Any]
    tensors: tuple[TensorFacts, ...]  # empty: only the config is there
    where: str  # of the config, for errors
    stored: str | None = None  # "gguf"; None: as the config says


def folder_header(folder: Path) -> Header:
    """A checkpoint folder; one with GGUF files and no config.json is read as such, one without weights has no tensors.

    Raises CheckpointError naming the file that is wrong.
    """
    if not (folder / "config.json").exists() and (parts := sorted(folder.glob("*.gguf"))):
        return gguf_header(parts[0])
    config = read_object(folder / "config.json", "the folder needs a Hugging Face config.json beside its weights")
    weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.safetensors.index.json"))
    tensors = _facts(read_tensors(folder)) if weights else ()
    return Header(config, tensors, str(folder / "config.json"))


def gguf_header(file: Path) -> Header:
    """A GGUF file, or the model that it is a part of, its metadata translated to the words of config.json."""
    found = read_gguf(file)
    first_draft = drafts_from(found)
    tensors = tuple(
        TensorFacts(tensor.name, tensor.shape, tensor.dtype, tensor.nbytes, _gguf_role(tensor.name, first_draft))
        for tensor in found.tensors
    )
    return Header(config_of(found), tensors, str(found.file), "gguf")


def hub_header(model: str, endpoint: str = ENDPOINT, token: str | None = None) -> Header:
    """A model of the hub by its id."""
    config, tensors = read_hub(model, endpoint, token)
    return Header(config, _facts(tensors), f"{model}/config.json")


def _facts(tensors: Mapping[str, TensorInfo]) -> tuple[TensorFacts, ...]:
    return tuple(TensorFacts(name, info.shape, info.dtype, info.nbytes, role_of(name)) for name, info in tensors.items())


def _gguf_role(name: str, first_draft: int) -> str:
    """Layers behind those of the decoder belong to its draft head."""
    block = name.split(".", 2)
    if block[0] == "blk" and len(block) > 1 and block[1].isdigit() and int(block[1]) >= first_draft:
        return "draft"
    return role_of(name)
