"""The safetensors container: where each tensor of a file lies. Owns the header and its checks; reads no data, knows no torch.

Format (huggingface/safetensors, README): 8 bytes little-endian header length, a JSON object
`{name: {"dtype", "shape", "data_offsets": [begin, end]}}`, then the data, which the tensors cover without gap or overlap.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from tokenwell.wire.errors import CheckpointError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
LFS_POINTER = b"version https://git-lfs"

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor. `begin` and `end` are byte positions in `file`, counted from its start."""

    file: Path
    dtype: str  # a key of DTYPE_BYTES
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in the file."""
        return self.end - self.begin


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    data_offsets: tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0)]]


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Every tensor of `file` by name, checked against each other and against the file's size.

    Raises CheckpointError naming the file, and the tensor where one is to blame.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(LENGTH_BYTES + len(LFS_POINTER))
            length = int.from_bytes(data[:LENGTH_BYTES], "little")
            _check_start(file, size, data, length)
            stream.seek(LENGTH_BYTES)
            data = data[:LENGTH_BYTES] + stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
    return parse_header(file, data, size)


def parse_header(file: Path, data: bytes, size: int) -> dict[str, TensorInfo]:
    """The same for the first bytes of a file of `size` bytes, its whole header among them."""
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    _check_start(file, size, data[: LENGTH_BYTES + len(LFS_POINTER)], length)
    data_start = LENGTH_BYTES + length
    entries = _entries(file, data[LENGTH_BYTES:data_start])
    tensors = {name: _tensor(file, name, entry, data_start) for name, entry in entries.items()}
    _check_layout(file, tensors, data_start, size)
    return tensors


def _check_start(file: Path, size: int, first: bytes, length: int) -> None:
    if first.startswith(LFS_POINTER):
        raise CheckpointError(
            f"{file} is a Git LFS pointer ({size} bytes), not the weights. Run `git lfs pull` in its folder or download it again."
        )
    if size < LENGTH_BYTES:
        raise CheckpointError(f"{file} is truncated: {size} bytes, shorter than any safetensors file. Download it again.")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{file} is not a safetensors file: it starts with {first[:LENGTH_BYTES]!r}, which as a header length would be "
            f"{length} bytes. Download it again."
        )
    if size < LENGTH_BYTES + length:
        raise CheckpointError(
            f"{file} is truncated: its header alone needs {LENGTH_BYTES + length} bytes, the file has {size}. Download it again."
        )


def _entries(file: Path, text: bytes) -> dict[str, _Entry]:
    try:
        raw = msgspec.json.decode(text.decode(), type=dict[str, msgspec.Raw])
        msgspec.json.decode(raw.pop("__metadata__", b"{}"), type=dict[str, str])  # free text of the writer, not used
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is corrupt: its header is not a JSON object of tensors ({error}). Download it again."
        ) from error
    entries = {}
    for name, value in raw.items():
        try:
            entries[name] = msgspec.json.decode(value, type=_Entry)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file} is corrupt: its header describes tensor {name!r} wrongly ({error}).") from error
    return entries


def _tensor(file: Path, name: str, entry: _Entry, data_start: int) -> TensorInfo:
    item_bytes = DTYPE_BYTES.get(entry.dtype)
    if item_bytes is None:
        raise CheckpointError(
            f"{file}: tensor {name!r} has dtype {entry.dtype!r}, which is not supported. Known: {', '.join(DTYPE_BYTES)}."
        )
    begin, end = entry.data_offsets
    needed = math.prod(entry.shape) * item_bytes
    if end - begin != needed:
        raise CheckpointError(
            f"{file} is corrupt: tensor {name!r} ({entry.dtype} {list(entry.shape)}) needs {needed} bytes, "
            f"its offsets [{begin}, {end}] give {end - begin}. Download it again."
        )
    return TensorInfo(file, entry.dtype, entry.shape, data_start + begin, data_start + end)


def _check_layout(file: Path, tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    """The format forbids gaps, overlaps and trailing bytes: each would mean that data and header do not belong together."""
    reached, previous = data_start, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != reached:
            fault = "overlaps" if info.begin < reached else "leaves a gap after"
            raise CheckpointError(f"{file} is corrupt: the data of tensor {name!r} {fault} {previous}. Download it again.")
        reached, previous = info.end, f"tensor {name!r}"
    if size < reached:
        raise CheckpointError(
            f"{file} is truncated: its header describes {reached} bytes, the file has {size}. Download it again."
        )
    if size > reached:
        raise CheckpointError(
            f"{file} is corrupt: its header describes {reached} bytes, the file has {size}, which is more. Download it again."
        )
