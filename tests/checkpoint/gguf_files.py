"""GGUF files written value by value, so that tests can say what is in them. Tensors have no data, only room for it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

U8, I32, F32, BOOL, TEXT, ARRAY, U32, U64 = 0, 5, 6, 7, 8, 9, 4, 10
_FORMS = {U8: "<B", I32: "<i", F32: "<f", BOOL: "<?", U32: "<I", U64: "<Q"}
Tensors = Sequence[tuple[str, tuple[int, ...], int, int]]  # name, shape (outermost first), type, bytes


def text(value: str) -> bytes:
    """A length and the bytes."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """A type and a value."""
    if isinstance(item, bool):
        return struct.pack("<I?", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", U32, item)
    if isinstance(item, float):
        return struct.pack("<If", F32, item)
    if isinstance(item, str):
        return struct.pack("<I", TEXT) + text(item)
    kind = TEXT if isinstance(item[0], str) else BOOL if isinstance(item[0], bool) else I32
    body = b"".join(text(one) if kind == TEXT else struct.pack(_FORMS[kind], one) for one in item)
    return struct.pack("<IIQ", ARRAY, kind, len(item)) + body


def write_gguf(file: Path, metadata: Mapping[str, Any], tensors: Tensors, version: int = 3) -> Path:
    """A file of this header; its data are a hole."""
    header = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, item in metadata.items():
        header += text(key) + value(item)
    offset = 0
    for name, shape, kind, nbytes in tensors:
        header += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        header += struct.pack("<IQ", kind, offset)
        offset += -(-nbytes // 32) * 32
    with file.open("wb") as stream:
        stream.write(header + b"\0" * (-len(header) % 32))
        stream.truncate(stream.tell() + offset)
    return file
