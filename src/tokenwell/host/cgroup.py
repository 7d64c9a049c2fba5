"""The limits that control groups (v1, v2 and both at once) put on this process. Knows nothing of the machine around them.

Sources: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst, proc_pid_cgroup(5), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from tokenwell.host.machine import LiveMachine, Machine, whole_number

_NO_LIMIT_BYTES = 2**60  # v1 writes "no limit" as the largest number of whole pages


@dataclass(frozen=True)
class MemoryLimit:
    """The limit of one group."""

    limit_bytes: int
    used_bytes: int  # without the page cache that the kernel drops when memory is needed


def cpu_quota(machine: Machine | None = None) -> float | None:
    """CPU time in cores that this process may use per second of wall clock; None without a limit."""
    machine = machine or LiveMachine()
    quotas = [quota for folder in _groups(machine, "cpu") if (quota := _quota(machine, folder)) is not None]
    return min(quotas, default=None)


def memory_limits(machine: Machine | None = None) -> list[MemoryLimit]:
    """The limits of this process's group and of all groups around it; empty without any."""
    machine = machine or LiveMachine()
    return [limit for folder in _groups(machine, "memory") if (limit := _memory_limit(machine, folder)) is not None]


def _quota(machine: Machine, folder: PurePosixPath) -> float | None:
    words = (machine.text(f"{folder}/cpu.max") or "").split()  # v2: "max 100000" or "150000 100000"
    if not words:
        words = [machine.text(f"{folder}/cpu.cfs_{what}_us") or "" for what in ("quota", "period")]  # v1: -1 is no limit
    quota_us, period_us = (whole_number(word) for word in words[:2]) if len(words) >= 2 else (None, None)
    return quota_us / period_us if quota_us and period_us and quota_us > 0 and period_us > 0 else None


def _memory_limit(machine: Machine, folder: PurePosixPath) -> MemoryLimit | None:
    v1 = machine.node(f"{folder}/memory.limit_in_bytes") is not None
    names = ("memory.limit_in_bytes",) if v1 else ("memory.max", "memory.high")
    values = [machine.number(f"{folder}/{name}") for name in names]  # v2 writes "max" for no limit
    limits = [limit for limit in values if limit is not None and limit < _NO_LIMIT_BYTES]
    used = machine.number(f"{folder}/{'memory.usage_in_bytes' if v1 else 'memory.current'}")
    if not limits or used is None:
        return None
    droppable = _statistic(machine, folder, "total_inactive_file" if v1 else "inactive_file")
    return MemoryLimit(min(limits), max(0, used - droppable))


def _statistic(machine: Machine, folder: PurePosixPath, name: str) -> int:
    for line in (machine.text(f"{folder}/memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return whole_number(value) or 0
    return 0


def _groups(machine: Machine, controller: str) -> Iterator[PurePosixPath]:
    """The folder of this process's group for the controller, then those of the groups around it, in every hierarchy."""
    mounts = list(_mounts(machine, controller))
    for line in (machine.text("/proc/self/cgroup") or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        version = 2 if hierarchy == "0" and not controllers else 1
        if version == 1 and controller not in controllers.split(","):
            continue
        for mount_version, mount_root, mount_point in mounts:
            if mount_version == version:
                yield from _upwards(machine, mount_point, mount_root, PurePosixPath(group))


def _upwards(machine: Machine, mount: PurePosixPath, mount_root: PurePosixPath, group: PurePosixPath) -> Iterator[PurePosixPath]:
    # In a container without its own cgroup namespace the group's path is the host's, and the mount shows its lowest part.
    below = group.relative_to(mount_root) if group.is_relative_to(mount_root) else PurePosixPath()
    parts = [part for part in below.parts if part not in ("/", "..")]
    folder = mount.joinpath(*parts)
    if machine.names(str(folder)) is None:
        folder, parts = mount, []
    for _ in range(len(parts) + 1):
        yield folder
        folder = folder.parent


def _mounts(machine: Machine, controller: str) -> Iterator[tuple[int, PurePosixPath, PurePosixPath]]:
    """(version, root inside the hierarchy, mount point) of every cgroup mount that can hold the controller."""
    for line in (machine.text("/proc/self/mountinfo") or "").splitlines():
        place, _, kind = line.partition(" - ")
        fields, words = place.split(), kind.split()
        if len(fields) < 6 or len(words) < 3:
            continue
        if words[0] == "cgroup2":
            yield 2, PurePosixPath(fields[3]), PurePosixPath(fields[4])
        elif words[0] == "cgroup" and controller in words[2].split(","):
            yield 1, PurePosixPath(fields[3]), PurePosixPath(fields[4])
