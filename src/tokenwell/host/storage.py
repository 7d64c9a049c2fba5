"""The folder where a model is or will be: its file system, its room, how fast it can be read. Knows no format."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwell.host.machine import Machine, Space

_MEASURE_SECONDS = 0.25
_WORTH_MEASURING_BYTES = 64 * 2**20  # of less, the first access is most of the time
_MOST_NAMES = 2000


@dataclass(frozen=True)
class FolderFacts:
    """A folder, or the nearest one above it that exists. Unknown is None."""

    path: str
    exists: bool
    space: Space | None
    file_system: str | None  # "ext4", "nfs4", "9p", …
    content_bytes: int | None  # of the files directly in it
    read_bytes_s: float | None  # past the page cache


def read_folder(machine: Machine, path: str) -> FolderFacts:
    """Facts about a folder with an absolute path; reads its largest file for a quarter of a second at most."""
    names = machine.names(path)
    nodes = [(f"{path.rstrip('/')}/{name}", machine.node(f"{path.rstrip('/')}/{name}")) for name in (names or ())[:_MOST_NAMES]]
    files = [(file, node.size_bytes) for file, node in nodes if node and node.kind == "file"]
    largest, size = max(files, key=lambda entry: entry[1], default=("", 0))
    present = _present(machine, path)
    return FolderFacts(
        path=path,
        exists=names is not None,
        space=machine.space(present),
        file_system=_file_system(machine, machine.target(present) or present),
        content_bytes=sum(size for _, size in files) if names is not None else None,
        read_bytes_s=machine.read_rate(largest, _MEASURE_SECONDS) if size >= _WORTH_MEASURING_BYTES else None,
    )


def _present(machine: Machine, path: str) -> str:
    while path not in ("", "/") and machine.node(path) is None:
        path = path.rpartition("/")[0]
    return path or "/"


def _file_system(machine: Machine, path: str) -> str | None:
    """The kind of the mount that the path is on: the longest mount point counts, and of equal ones the last."""
    best, kind = "", None
    for line in (machine.text("/proc/self/mountinfo") or "").splitlines():
        place, _, source = line.partition(" - ")
        fields, words = place.split(), source.split()
        if len(fields) < 5 or not words:
            continue
        mount = fields[4].replace("\\040", " ").rstrip("/")
        if (path == mount or path.startswith(mount + "/")) and len(mount) >= len(best):
            best, kind = mount, words[0]
    return kind
