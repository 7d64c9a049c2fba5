"""What the processor can do for this process: cores and instruction sets. Unknown is None. Knows no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from tokenwell.host.cgroup import cpu_quota
from tokenwell.host.machine import MIB, LiveMachine, Machine

# Our word for an instruction set, and the kernel's flags in /proc/cpuinfo that it takes.
_FEATURES = {
    "avx2": {"avx2", "fma"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512_vnni": {"avx512_vnni"},
    "avx512_bf16": {"avx512_bf16"},
    "amx": {"amx_tile", "amx_bf16", "amx_int8"},
}

_SMALL_BYTES = 64 << 20


@dataclass(frozen=True)
class CpuFacts:
    """One process's view of the processor."""

    model: str | None
    physical_cores: int | None  # of the whole machine
    usable_threads: int | None  # hardware threads that the affinity mask lets this process run on
    usable_cores: int | None  # different physical cores among those
    quota_cores: float | None  # CPU time that control groups grant, in cores; None: no limit
    features: frozenset[str] | None  # of avx2, avx512, avx512_vnni, avx512_bf16, amx; None: cannot be told

    @property
    def compute_threads(self) -> tuple[int, str]:
        """How many threads suit arithmetic, and why. Two hardware threads of a core share its arithmetic units."""
        cores, reason = self.usable_cores, "one for each physical core that may be used"
        if cores is None:
            cores, reason = self.usable_threads, "one for each hardware thread (physical cores are unknown here)"
        if cores is None:
            return 1, "the number of cores is unknown here"
        if self.quota_cores is not None and self.quota_cores < cores:
            return max(1, int(self.quota_cores)), f"control groups grant {self.quota_cores:g} cores"
        return cores, reason

    def threads_for(self, weights_bytes: int) -> tuple[int, str]:
        """The same for a model of that size: a step over few weights takes about as long as a few waits between threads."""
        if weights_bytes < _SMALL_BYTES:
            return 1, "the model is so small that threads would wait for each other longer than they compute"
        return self.compute_threads


def read_cpu(machine: Machine | None = None) -> CpuFacts:
    """Facts about the processor now; affinity and the number of cores are always those of this process."""
    machine = machine or LiveMachine()
    model, flags = _cpuinfo(machine)
    allowed = _affinity()
    return CpuFacts(
        model=model,
        physical_cores=psutil.cpu_count(logical=False),
        usable_threads=len(allowed) if allowed is not None else os.cpu_count(),
        usable_cores=_cores_of(machine, allowed) if allowed is not None else psutil.cpu_count(logical=False),
        quota_cores=cpu_quota(machine),
        features=None if flags is None else frozenset(name for name, needs in _FEATURES.items() if needs <= flags),
    )


def _affinity() -> frozenset[int] | None:
    """The hardware threads that this process may run on; None where the system has no such mask."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _cores_of(machine: Machine, threads: frozenset[int]) -> int | None:
    """How many physical cores the hardware threads belong to; None where sysfs does not say it for every one of them."""
    cores = set()
    for thread in threads:
        siblings = machine.text(f"/sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list")
        if siblings is None:
            return None
        cores.add(siblings)
    return len(cores)


def _cpuinfo(machine: Machine) -> tuple[str | None, frozenset[str] | None]:
    """The model's name, and the flags that all hardware threads have in common."""
    data = machine.read("/proc/cpuinfo", 8 * MIB)  # a server with 384 threads has a megabyte of it
    if data is None:
        return None, None
    model: str | None = None
    flags: frozenset[str] | None = None
    for line in data.decode(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = model or value.strip()
        elif name.strip() in ("flags", "Features"):  # x86, Arm
            flags = frozenset(value.split()) if flags is None else flags & frozenset(value.split())
    return model, flags
