"""What holds this process back: memory, shared memory, locked memory, huge pages, clocks of the processor. Unknown is None.

Sources: proc_meminfo(5), proc_pid_limits(5), the kernel's Documentation/admin-guide/mm/transhuge.rst and pm/cpufreq.rst,
pm/intel_pstate.rst and pm/amd-pstate.rst (in their active mode "powersave" is the normal governor, and a hint tells speed).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenwell.host.cgroup import cpu_quota, memory_limits
from tokenwell.host.machine import Machine, Space, whole_number

_CPUFREQ = "/sys/devices/system/cpu/cpufreq"
_ENDLESS = "unlimited"


@dataclass(frozen=True)
class ClockFacts:
    """How the processor's clock is chosen, over all of its policies."""

    drivers: frozenset[str]
    governors: frozenset[str]
    preferences: frozenset[str]  # of intel_pstate and amd-pstate
    capped: float | None  # smallest allowed maximum over the hardware's maximum


@dataclass(frozen=True)
class LimitFacts:
    """Limits in bytes."""

    memory_bytes: int | None  # of the machine
    available_bytes: int | None
    memory_limit_bytes: int | None  # of the tightest control group; None: no limit
    cpu_quota_cores: float | None
    locked_bytes: float | None  # that this process may lock; infinite when unlimited
    shared: Space | None  # /dev/shm
    huge_page_bytes: int | None
    huge_pages: int | None  # reserved
    free_huge_pages: int | None
    transparent_huge_pages: str | None  # "always", "madvise" or "never"
    clocks: ClockFacts


def read_limits(machine: Machine) -> LimitFacts:
    """Limits around this process now."""
    sizes = _meminfo(machine)
    chosen = re.search(r"\[(\w+)\]", machine.text("/sys/kernel/mm/transparent_hugepage/enabled") or "")
    groups = memory_limits(machine)
    return LimitFacts(
        memory_bytes=sizes.get("MemTotal"),
        available_bytes=sizes.get("MemAvailable"),
        memory_limit_bytes=min((group.limit_bytes for group in groups), default=None),
        cpu_quota_cores=cpu_quota(machine),
        locked_bytes=_locked(machine),
        shared=machine.space("/dev/shm"),
        huge_page_bytes=sizes.get("Hugepagesize"),
        huge_pages=sizes.get("HugePages_Total"),
        free_huge_pages=sizes.get("HugePages_Free"),
        transparent_huge_pages=chosen[1] if chosen else None,
        clocks=_clocks(machine),
    )


def _meminfo(machine: Machine) -> dict[str, int]:
    found = {}
    for line in (machine.text("/proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        count = whole_number(words[0]) if words else None
        if count is not None:
            found[name] = count * 1024 if words[1:] == ["kB"] else count
    return found


def _locked(machine: Machine) -> float | None:
    row = re.search(r"^Max locked memory\s+(\S+)", machine.text("/proc/self/limits") or "", re.MULTILINE)
    if row is None:
        return None
    return float("inf") if row[1] == _ENDLESS else whole_number(row[1])


def _clocks(machine: Machine) -> ClockFacts:
    policies = [f"{_CPUFREQ}/{name}" for name in machine.names(_CPUFREQ) or () if name.startswith("policy")]

    def words(name: str) -> frozenset[str]:
        return frozenset(word for policy in policies if (word := machine.text(f"{policy}/{name}")))

    shares = []
    for policy in policies:
        allowed, possible = machine.number(f"{policy}/scaling_max_freq"), machine.number(f"{policy}/cpuinfo_max_freq")
        if allowed and possible:
            shares.append(allowed / possible)
    return ClockFacts(
        drivers=words("scaling_driver"),
        governors=words("scaling_governor"),
        preferences=words("energy_performance_preference"),
        capped=min(shares, default=None),
    )
