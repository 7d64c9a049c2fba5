"""Where the bundled folders are: the small model's among the program's own files, the scripted engine's in the cache.

The scripted engine's is made once. It appears under its name when it is complete, and is made anew when a file is missing or
differs from what was written. Knows nothing of what the files mean.
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

NAME = "tokenwell-mini"
_MINI = Path(__file__).with_name("mini")
_MANIFEST = "manifest.json"


def bundled_checkpoint() -> Path:
    """The folder of the model that is served as NAME when none was named; read where it is.

    Raises CheckpointError when this installation was made without it.
    """
    if not (_MINI / "config.json").is_file():
        raise CheckpointError(f"the bundled model is missing from {_MINI}: install Tokenwell anew, or name a checkpoint folder")
    return _MINI


def scripted_folder(cache: Path) -> Path:
    """The folder that the scripted engine serves, below `cache`, built first if it is not there or is damaged.

    Raises CheckpointError when the cache folder cannot be written.
    """
    from tokenwell.bundled import scripted  # here, because it reads the tables of all chat formats

    version = scripted.version()
    return _kept(cache / "bundled" / version / scripted.NAME, version, scripted.files)


def as_json(content: object) -> bytes:
    """JSON as it is written here: ASCII, indented, with a last newline."""
    return (json.dumps(content, ensure_ascii=True, indent=2) + "\n").encode("ascii")


def _kept(folder: Path, version: str, files: Callable[[], dict[str, bytes]]) -> Path:
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
            f"the scripted engine's folder cannot be written to {folder}: {error.strerror or error}; "
            "free or unlock that place, or set XDG_CACHE_HOME to another one"
        ) from error
    return folder


def _replace(folder: Path, version: str, content: dict[str, bytes]) -> None:
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


def _intact(folder: Path, version: str) -> bool:
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
