"""Headers of safetensors files: what is accepted, and that anything else is a CheckpointError that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tests.tiny import write

from tokenwell.checkpoint.safetensors import read_header
from tokenwell.wire.errors import CheckpointError

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def test_header_tells_dtype_shape_and_where_the_bytes_are(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(7, dtype=torch.int64), "empty": torch.empty(0, 4)}
    write.write_checkpoint(tmp_path, tensors)
    header = read_header(file)
    content = file.read_bytes()
    assert {name: (info.dtype, info.shape) for name, info in header.items()} == {
        "a.weight": ("F32", (2, 3)),
        "b": ("I64", ()),
        "empty": ("F32", (0, 4)),
    }
    for name, info in header.items():
        assert content[info.begin : info.end] == tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()
        assert info.nbytes == tensors[name].nbytes
        assert info.file == file


def test_file_without_tensors_is_valid(tmp_path: Path) -> None:
    write.write_raw(tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}})
    assert read_header(tmp_path / "x.safetensors") == {}


def test_padding_spaces_after_the_header_are_accepted(tmp_path: Path) -> None:
    write.write_raw(tmp_path / "x.safetensors", json.dumps({"a": ENTRY}).encode() + b"     ", bytes(24))
    assert read_header(tmp_path / "x.safetensors")["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        ({"a": {**ENTRY, "dtype": "F12"}}, 24, ["'a'", "F12", "not supported"]),
        ({"a": {**ENTRY, "dtype": 5}}, 24, ["'a'", "dtype"]),
        ({"a": {**ENTRY, "shape": [2, 4]}}, 24, ["'a'", "needs 32 bytes", "give 24"]),
        ({"a": {**ENTRY, "shape": [-2, -3]}}, 24, ["'a'", "shape"]),
        ({"a": {**ENTRY, "shape": [2.5, 3]}}, 24, ["'a'", "shape"]),
        ({"a": {**ENTRY, "shape": [10**30, 10**30]}}, 24, ["'a'"]),
        ({"a": {**ENTRY, "shape": "x"}}, 24, ["'a'", "shape"]),
        ({"a": {**ENTRY, "data_offsets": [24, 0]}}, 24, ["'a'", "needs 24 bytes"]),
        ({"a": {**ENTRY, "data_offsets": [0, 24, 48]}}, 24, ["'a'", "data_offsets"]),
        ({"a": {**ENTRY, "data_offsets": [-24, 0]}}, 24, ["'a'", "data_offsets"]),
        ({"a": {"dtype": "F32", "shape": [2, 3]}}, 24, ["'a'", "data_offsets"]),
        ({"a": None}, 24, ["'a'"]),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 32]}}, 32, ["'b'", "overlaps", "'a'"]),
        ({"a": ENTRY, "b": ENTRY}, 24, ["'b'", "overlaps", "'a'"]),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [32, 56]}}, 56, ["'b'", "gap", "'a'"]),
        ({"a": {**ENTRY, "data_offsets": [8, 32]}}, 32, ["'a'", "gap", "header"]),
        ({"a": ENTRY}, 23, ["truncated"]),
        ({"a": ENTRY}, 25, ["more"]),
    ],
)
def test_wrong_descriptions_name_file_and_tensor(tmp_path: Path, header: dict[str, Any], data: int, says: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    write.write_raw(file, header, bytes(data))
    with pytest.raises(CheckpointError) as error:
        read_header(file)
    for words in [str(file), *says]:
        assert words in str(error.value)


def _lfs(file: Path) -> None:
    write.write_raw(file, {"a": ENTRY}, bytes(24))
    write.replace_by_lfs_pointer(file)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_lfs, ["Git LFS pointer", "git lfs pull"]),
        (lambda file: file.write_bytes(b""), ["truncated", "0 bytes"]),
        (lambda file: file.write_bytes(bytes(7)), ["truncated", "7 bytes"]),
        (lambda file: file.write_bytes(bytes(8)), ["not a safetensors file"]),
        (lambda file: file.write_text("<!DOCTYPE html><html>not found</html>"), ["not a safetensors file", "<!DOCTYP"]),
        (lambda file: write.write_raw(file, b"[1, 2]"), ["JSON object"]),
        (lambda file: write.write_raw(file, b'{"a": '), ["JSON object"]),
        (lambda file: write.write_raw(file, b"\xff\xfe{}"), ["JSON object"]),
        (lambda file: write.write_raw(file, b"[" * 100_000), ["JSON object"]),
        (lambda file: write.write_raw(file, b'{"a":' * 50_000 + b"1" + b"}" * 50_000), ["corrupt"]),
        (lambda file: write.write_raw(file, {"a": ENTRY}, b"", length=5000), ["truncated", "5008 bytes"]),
        (lambda file: write.write_raw(file, {"a": ENTRY}, b"", length=2**63), ["not a safetensors file", str(2**63)]),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, damage: Callable[[Path], object], says: list[str]) -> None:
    file = tmp_path / "model.safetensors"
    damage(file)
    with pytest.raises(CheckpointError) as error:
        read_header(file)
    for words in [str(file), *says]:
        assert words in str(error.value)


def test_truncation_tells_both_sizes(tmp_path: Path) -> None:
    write.write_checkpoint(tmp_path, {"a": torch.zeros(100)})
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size
    write.truncate(file, 30)
    with pytest.raises(CheckpointError, match=f"truncated.*{size} bytes.*has {size - 30}"):
        read_header(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors cannot be read: No such file"):
        read_header(tmp_path / "absent.safetensors")


def test_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="directory"):
        read_header(tmp_path)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_NEAR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", ""]) | _JSON,
        "shape": st.lists(st.integers(0, 3), max_size=3) | _JSON,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | _JSON,
    }
)


@given(header=st.dictionaries(st.text(max_size=3), _NEAR | _JSON, max_size=3), data=st.binary(max_size=48))
def test_any_json_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any], data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "json.safetensors"
    write.write_raw(file, header, data)
    try:
        tensors = read_header(file)
    except CheckpointError as error:
        assert str(file) in str(error)
        str(error).encode()  # can be printed
    else:
        assert sum(info.nbytes for info in tensors.values()) == len(data)


@given(content=st.binary(max_size=64), length=st.none() | st.integers(0, 80))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, length: int | None) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    file.write_bytes(content if length is None else length.to_bytes(8, "little") + content)
    try:
        read_header(file)
    except CheckpointError as error:
        assert str(file) in str(error)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_as_the_reference_reads_it(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flip"
    write.write_checkpoint(folder, {"first": torch.zeros(3, 2), "second": torch.ones(5)})
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[position % len(content)] = byte
    file.write_bytes(content)
    try:
        tensors = read_header(file)
    except CheckpointError:
        return
    with safe_open(file, framework="pt") as opened:
        assert {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()} == {  # noqa: SIM118  # not a mapping
            name: info.shape for name, info in tensors.items()
        }
