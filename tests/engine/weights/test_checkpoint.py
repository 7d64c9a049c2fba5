"""Checkpoint folders: which files belong to one, and errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import Tiny
from tests.tiny import write
from tests.tiny.recipes import RECIPES

from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.wire.errors import CheckpointError

TENSORS = {f"layers.{index}.weight": torch.full((2, 3), float(index)) for index in range(5)}


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    return str(error.value)


@pytest.mark.parametrize("shards", [1, 3])
def test_all_tensors_of_all_files(tmp_path: Path, shards: int) -> None:
    write.write_checkpoint(tmp_path, TENSORS, {"model_type": "x"}, shards)
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.names) == set(TENSORS)
    assert checkpoint.total_bytes == 5 * 24
    assert checkpoint.config == {"model_type": "x"}
    assert len({info.file for info in checkpoint.names.values()}) == shards


def test_shards_without_an_index(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS, shards=3)
    (tmp_path / write.INDEX).unlink()
    assert set(Checkpoint.open(tmp_path).names) == set(TENSORS)


def test_missing_shard_without_an_index(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS, shards=3)
    (tmp_path / write.INDEX).unlink()
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in refusal(tmp_path)


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS, shards=2)
    (tmp_path / "consolidated.safetensors").write_bytes(b"something else")
    assert set(Checkpoint.open(tmp_path).names) == set(TENSORS)


def test_consolidated_copy_beside_a_single_file(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS)
    (tmp_path / "consolidated.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    assert set(Checkpoint.open(tmp_path).names) == set(TENSORS)


@pytest.mark.parametrize("name", RECIPES)
def test_every_tiny_checkpoint_opens(tiny: Tiny, name: str) -> None:
    checkpoint = Checkpoint.open(tiny(name))
    assert checkpoint.config["architectures"] == [RECIPES[name].architecture]
    assert checkpoint.total_bytes > 100_000


def test_folder_is_missing(tmp_path: Path) -> None:
    assert f"{tmp_path / 'absent'} is not a folder" in refusal(tmp_path / "absent")


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "is not a folder" in refusal(tmp_path / "model.gguf")


def test_config_is_missing(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS)
    (tmp_path / "config.json").unlink()
    assert f"{tmp_path / 'config.json'} is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "not valid JSON"),
        (b'{"model_type": ', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "must hold a JSON object, not list"),
        (b"null", "must hold a JSON object, not NoneType"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("file", ["config.json", write.INDEX])
def test_broken_json_files(tmp_path: Path, file: str, text: bytes, says: str) -> None:
    write.write_checkpoint(tmp_path, TENSORS, shards=2)
    (tmp_path / file).write_bytes(text)
    message = refusal(tmp_path)
    assert str(tmp_path / file) in message
    assert says in message


@pytest.mark.parametrize(("other", "named"), [("model.gguf", True), ("pytorch_model.bin", True), ("README.md", False)])
def test_no_safetensors(tmp_path: Path, other: str, named: bool) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / other).write_bytes(b"x")
    message = refusal(tmp_path)
    assert f"{tmp_path} has no *.safetensors files" in message
    assert (other in message) == named


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_index_without_a_weight_map(tmp_path: Path, weight_map: object) -> None:
    write.write_checkpoint(tmp_path, TENSORS)
    write.write_index(tmp_path, weight_map)  # type: ignore[arg-type]
    assert f'{tmp_path / write.INDEX} has no "weight_map"' in refusal(tmp_path)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "", 5, None, "sub/model.safetensors", ".."])
def test_index_that_points_outside_the_folder(tmp_path: Path, file: object) -> None:
    write.write_checkpoint(tmp_path, TENSORS)
    write.write_index(tmp_path, {"a": file})
    message = refusal(tmp_path)
    assert "'a'" in message
    assert repr(file) in message


def test_index_names_a_missing_file(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS, shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    message = refusal(tmp_path)
    assert f"{tmp_path / 'model-00002-of-00002.safetensors'} is missing" in message
    assert "layers.1.weight" in message


def test_index_names_a_tensor_that_its_file_does_not_hold(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS)
    write.write_index(tmp_path, dict.fromkeys([*TENSORS, "lm_head.weight"], "model.safetensors"))
    assert "does not hold tensor 'lm_head.weight'" in refusal(tmp_path)


def test_index_names_the_wrong_file_of_two(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS, shards=2)
    files = {name: f"model-0000{1 + (index + 1) % 2}-of-00002.safetensors" for index, name in enumerate(TENSORS)}
    write.write_index(tmp_path, files)
    assert "does not hold tensor 'layers.0.weight'" in refusal(tmp_path)


def test_tensor_in_two_files(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, TENSORS)
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    message = refusal(tmp_path)
    assert "'layers.0.weight'" in message
    assert "copy.safetensors" in message
    assert "model.safetensors" in message


@pytest.mark.parametrize("indexed", [True, False])
def test_truncated_shard_is_named(tmp_path: Path, indexed: bool) -> None:
    write.write_checkpoint(tmp_path, TENSORS, shards=3)
    if not indexed:
        (tmp_path / write.INDEX).unlink()
    write.truncate(tmp_path / "model-00003-of-00003.safetensors", 5)
    message = refusal(tmp_path)
    assert "model-00003-of-00003.safetensors is truncated" in message
