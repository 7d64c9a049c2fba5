"""The limits that control groups (v1, v2 and both at once) put on this process. Knows nothing of the machine around them.

Sources: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, proc_pid_cgroup(5), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_NO_LIMIT_BYTES = 2**60  # v1 writes "no limit" as the largest number of whole pages


@dataclass(frozen=True)
class MemoryLimit:
    """The limit of one group."""

    limit_bytes: int
    used_bytes: int  # without the page cache that the kernel drops when memory is needed


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPU time in cores that this process may use per second of wall clock; None without a limit.

    `root` is the folder that holds proc/ and sys/.
    """
    quotas = [quota for folder in _groups(root, "cpu") if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """The limits of this process's group and of all groups around it; empty without any."""
    return [limit for folder in _groups(root, "memory") if (limit := _memory_limit(folder)) is not None]


def _quota(folder: Path) -> float | None:
    words = (_read(folder / "cpu.max") or "").split()  # v2: "max 100000" or "150000 100000"
    if not words:
        words = [_read(folder / f"cpu.cfs_{what}_us") or "" for what in ("quota", "period")]  # v1: -1 is no limit
    quota_us, period_us = (_number(word) for word in words[:2]) if len(words) >= 2 else (None, None)
    return quota_us / period_us if quota_us and period_us and quota_us > 0 and period_us > 0 else None


def _memory_limit(folder: Path) -> MemoryLimit | None:
    v1 = (folder / "memory.limit_in_bytes").exists()
    names = ("memory.limit_in_bytes",) if v1 else ("memory.max", "memory.high")
    limits = [limit for name in names if (limit := _number(_read(folder / name))) is not None and limit < _NO_LIMIT_BYTES]
    used = _number(_read(folder / ("memory.usage_in_bytes" if v1 else "memory.current")))
    if not limits or used is None:
        return None
    droppable = _statistic(folder / "memory.stat", "total_inactive_file" if v1 else "inactive_file")
    return MemoryLimit(min(limits), max(0, used - droppable))


def _statistic(path: Path, name: str) -> int:
    for line in (_read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value) or 0
    return 0


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folder of this process's group for the controller, then those of the groups around it, in every hierarchy."""
    mounts = list(_mounts(root, controller))
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        version = 2 if hierarchy == "0" and not controllers else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount_version, mount_root, mount_point in mounts:
            if mount_version == version:
                yield from _upwards(root / str(mount_point).lstrip("/"), mount_root, PurePosixPath(group))


def _upwards(mount: Path, mount_root: PurePosixPath, group: PurePosixPath) -> Iterator[Path]:
    # In a container without its own cgroup namespace the group's path is the host's, and the mount shows its lowest part.
    below = group.relative_to(mount_root) if group.is_relative_to(mount_root) else PurePosixPath()
    parts = [part for part in below.parts if part not in ("/", "..")]
    folder = mount.joinpath(*parts)
    if not folder.is_dir():
        folder, parts = mount, []
    for _ in range(len(parts) + 1):
        yield folder
        folder = folder.parent


def _mounts(root: Path, controller: str) -> Iterator[tuple[int, PurePosixPath, PurePosixPath]]:
    """(version, root inside the hierarchy, mount point) of every cgroup mount that can hold the controller."""
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        place, _, kind = line.partition(" - ")
        fields, words = place.split(), kind.split()
        if len(fields) < 6 or len(words) < 3:
            continue
        if words[0] == "cgroup2":
            yield 2, PurePosixPath(fields[3]), PurePosixPath(fields[4])
        elif words[0] == "cgroup" and controller in words[2].split(","):
            yield 1, PurePosixPath(fields[3]), PurePosixPath(fields[4])


def _read(path: Path) -> str | None:
    """The file's text; None where the kernel has no such file or does not let us read it."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None
