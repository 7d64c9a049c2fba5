"""The GGUF container: a file's metadata and where each tensor lies. Reads no tensor data; knows no architecture.

Format (ggml, docs/gguf.md): "GGUF", version, number of tensors, number of keys, the keys with typed values, the tensors
(name, dimensions innermost first, type, offset), then the data, aligned. Models may be split over several files, of which the
first has the metadata. Sizes of types: ggml, ggml-common.h.
"""

from __future__ import annotations

import itertools
import math
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenwell.wire.errors import CheckpointError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MOST_DIMENSIONS = 8
_KEPT_ITEMS = 1 << 16  # longer arrays (vocabularies) are only counted

# number: (name, values of a block, bytes of a block)
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALARS = {kind: struct.Struct(f"<{code}") for kind, code in _NUMBERS.items()}
_TEXT, _ARRAY = 8, 9
_U32, _U64 = _SCALARS[4], _SCALARS[10]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One stored tensor."""

    name: str
    shape: tuple[int, ...]  # outermost first, as in safetensors
    dtype: str  # "Q4_K", ...; "type 42" for one that is not known here
    nbytes: int


@dataclass(frozen=True, slots=True)
class Counted:
    """An array that is only counted."""

    count: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """What the header of a file says, or the headers of all parts of a split model."""

    file: Path
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def read_gguf(file: Path) -> Gguf:
    """The whole model that `file` is, or is a part of. Raises CheckpointError naming the file that is wrong or missing."""
    match = _PART.fullmatch(file.name)
    if match is None:
        return _read_file(file)
    stem, _, count = match.groups()
    if not 1 <= int(count) <= 4096:
        raise CheckpointError(f"{file}: a model of {int(count)} parts cannot be read")
    parts = []
    for number in range(1, int(count) + 1):
        part = file.with_name(f"{stem}-{number:05}-of-{count}.gguf")
        if not part.is_file():
            raise CheckpointError(f"{part} is missing, while {file.name} is one of {int(count)} parts. Download it.")
        parts.append(_read_file(part))
    return Gguf(parts[0].file, parts[0].metadata, tuple(tensor for part in parts for tensor in part.tensors))


def _read_file(file: Path) -> Gguf:
    try:
        with file.open("rb") as stream:
            start = stream.read(24)
            if start[:4] != b"GGUF":
                raise CheckpointError(f"{file} is not a GGUF file: it starts with {start[:8]!r}. Download it again.")
            if len(start) < 24:
                raise CheckpointError(f"{file} is truncated: {len(start)} bytes. Download it again.")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(file, data).read()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error


class _Reader:
    """One file, read front to back. Every length is checked against the file's size, so that no header is slow."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file = file
        self.data = data
        self.size = len(data)
        self.at = 4

    def read(self) -> Gguf:
        version = self.number(_U32)
        if version not in (2, 3):
            raise self.wrong(f"version {version} is not known here, only 2 and 3 (little-endian)")
        tensors, keys = self.number(_U64), self.number(_U64)
        metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self.text()
            metadata[key] = self.value(self.number(_U32), key)
        table = [self.entry() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise self.wrong(f"general.alignment is {alignment!r}")
        start = -(-self.at // alignment) * alignment
        return Gguf(self.file, metadata, tuple(self.sized(table, start)))

    def number(self, form: struct.Struct) -> Any:
        """A number of this form."""
        try:
            (value,) = form.unpack_from(self.data, self.at)
        except struct.error:
            raise self.short() from None
        self.at += form.size
        return value

    def text(self) -> str:
        """A text; bytes that are no UTF-8 are replaced."""
        length = self.number(_U64)
        self.skip(length)
        return self.data[self.at - length : self.at].decode(errors="replace")

    def skip(self, length: int) -> None:
        if length > self.size - self.at:
            raise self.short()
        self.at += length

    def value(self, kind: int, key: str) -> Any:
        """A value of metadata."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            raise self.wrong(f"key {key[:80]!r} has type {kind}, which is not known")
        kind, count = self.number(_U32), self.number(_U64)
        if kind in _SCALARS:
            form = _SCALARS[kind]
            self.skip(count * form.size)
            if count > _KEPT_ITEMS:
                return Counted(count)
            return [value for (value,) in form.iter_unpack(self.data[self.at - count * form.size : self.at])]
        if kind != _TEXT:
            raise self.wrong(f"key {key[:80]!r} is an array of type {kind}, which is not supported")
        self.skip_texts(count)
        return Counted(count)

    def skip_texts(self, count: int) -> None:
        """Vocabularies have hundreds of thousands of texts: a loop without calls."""
        unpack, data, at, size = _U64.unpack_from, self.data, self.at, self.size
        try:
            for _ in range(count):
                at += 8 + unpack(data, at)[0]
        except (struct.error, OverflowError):
            raise self.short() from None
        if at > size:
            raise self.short()
        self.at = at

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of a tensor."""
        name = self.text()
        dimensions = self.number(_U32)
        if dimensions > _MOST_DIMENSIONS:
            raise self.wrong(f"tensor {name[:80]!r} has {dimensions} dimensions")
        shape = tuple(self.number(_U64) for _ in range(dimensions))
        return name, shape[::-1], self.number(_U32), self.number(_U64)

    def sized(self, table: list[tuple[str, tuple[int, ...], int, int]], start: int) -> Iterator[GgufTensor]:
        """The tensors with their bytes; where the type is not known, up to the next tensor."""
        offsets = sorted({offset for *_, offset in table} | {self.size - start})
        following = dict(itertools.pairwise(offsets))
        seen: set[str] = set()
        for name, shape, kind, offset in table:
            if name in seen:
                raise self.wrong(f"tensor {name[:80]!r} is there twice")
            seen.add(name)
            if kind in TYPES:
                dtype, values, size = TYPES[kind]
                if (shape[-1] if shape else 1) % values:
                    raise self.wrong(f"rows of tensor {name[:80]!r} {list(shape)} are no whole blocks of {dtype}")
                nbytes = math.prod(shape) // values * size
            else:
                dtype, nbytes = f"type {kind}", following.get(offset, 0) - offset
            if nbytes < 0 or nbytes > self.size - start - offset:
                raise self.wrong(
                    f"tensor {name[:80]!r} ({dtype} {list(shape)}) needs bytes {start + offset} to {start + offset + nbytes}, "
                    f"the file has {self.size}"
                )
            yield GgufTensor(name, shape, dtype, nbytes)

    def short(self) -> CheckpointError:
        return CheckpointError(f"{self.file} is truncated or corrupt: its header goes beyond its end. Download it again.")

    def wrong(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file} is corrupt or too new: {what}. Download it again.")
