"""Puts a bundled folder into the cache folder, once: an ordinary Hugging Face folder, of a checkpoint or without weights.

The folder appears under its name when it is complete, and is made anew when a file is missing or differs from what was
written. Knows nothing of what the files mean to a model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenwell.wire.errors import CheckpointError

NAME = "tokenwell-tiny"
VERSION = 1  # raise it whenever a byte of any file changes: a running server may still read the old folder
_MANIFEST = "manifest.json"


def bundled_checkpoint(cache: Path) -> Path:
    """The bundled checkpoint's folder below `cache`, built first if it is not there or is damaged (about a second).

    Raises CheckpointError when the cache folder cannot be written.
    """

    def content() -> dict[str, bytes]:
        from tokenwell.bundled.content import files  # here, because only a first start needs numpy and the 0.5 s

        return files()

    return _kept(cache / "bundled" / str(VERSION) / NAME, VERSION, content)


def scripted_folder(cache: Path) -> Path:
    """The folder that the scripted engine serves, below `cache`; built and refused as `bundled_checkpoint`."""
    from tokenwell.bundled import scripted  # here, because it reads the tables of all chat formats

    version = scripted.version()
    return _kept(cache / "bundled" / version / scripted.NAME, version, scripted.files)


def as_json(content: object) -> bytes:
    """JSON as it is written here: ASCII, indented, with a last newline."""
    return (json.dumps(content, ensure_ascii=True, indent=2) + "\n").encode("ascii")


def _kept(folder: Path, version: int | str, files: Callable[[], dict[str, bytes]]) -> Path:
    """`folder` with these files. Raises CheckpointError when it cannot be written."""
    if _intact(folder, version):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.parent):
            if not _intact(folder, version):  # another process may have built it while this one waited
                _replace(folder, version, files())
    except OSError as error:
        raise CheckpointError(
            f"the bundled checkpoint cannot be written to {folder}: {error.strerror or error}; "
            "free or unlock that place, set XDG_CACHE_HOME to another one, or name a checkpoint folder to serve"
        ) from error
    return folder


def _replace(folder: Path, version: int | str, content: dict[str, bytes]) -> None:
    """Build the folder beside its place and move it there; what was there before is removed."""
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
        for name, data in {**content, _MANIFEST: as_json({"version": version, "sha256": digests})}.items():
            _write(building / name, data)
        building.chmod(0o755)
        if os.path.lexists(folder):
            folder.rename(Path(tempfile.mkdtemp(prefix=".damaged-", dir=folder.parent)) / folder.name)
        building.rename(folder)
    finally:
        for left_over in folder.parent.glob(".*-*"):
            shutil.rmtree(left_over, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # otherwise a power cut could leave a complete folder of empty files


def _intact(folder: Path, version: int | str) -> bool:
    """True when every file is there and holds what was written."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        digests = manifest["sha256"]
        return manifest["version"] == version and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in digests.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel gives back also when this process dies."""
    with (home / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
