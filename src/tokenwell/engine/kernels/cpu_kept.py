"""Machine code that earlier starts generated, kept in a folder: compiling it takes most of the time to load a small model.

A file is named by all that its content depends on, and begins with a digest of the rest: one that was cut off is not used.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

_DIGEST_BYTES = 32

_folder: Path | None = None


def keep_in(folder: Path) -> None:
    """From now on code is kept in `folder`, which is made when it is needed; before nothing is kept."""
    global _folder
    _folder = folder


def name_of(*parts: str) -> str:
    """The name of what follows from these texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def find(name: str) -> bytes | None:
    """What was kept under `name`; None when there is nothing sound."""
    if _folder is None:
        return None
    try:
        data = (_folder / name).read_bytes()
    except OSError:
        return None
    content = data[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == data[:_DIGEST_BYTES] else None


def keep(name: str, content: bytes) -> None:
    """Keep `content` under `name`, if the folder can be written."""
    if _folder is None:
        return
    beside = _folder / f"{name}.{os.getpid()}"
    with suppress(OSError):
        _folder.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(hashlib.sha256(content).digest() + content)
        beside.replace(_folder / name)
