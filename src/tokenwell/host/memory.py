"""How much memory there is for this process, control groups included. Unknown is None."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from tokenwell.host.cgroup import memory_limits
from tokenwell.host.machine import Machine


@dataclass(frozen=True)
class MemoryFacts:
    """Main memory in bytes."""

    total_bytes: int  # of the machine, or the smallest limit around this process
    available_bytes: int  # that can be taken now without swapping and without reaching a limit
    limited: bool  # True when a control group, not the machine, sets total_bytes


def read_memory(machine: Machine | None = None) -> MemoryFacts:
    """Facts about main memory now; `machine` gives the limits (the size of the memory is always that of this machine)."""
    memory = psutil.virtual_memory()
    limits = memory_limits(machine)
    total = min((limit.limit_bytes for limit in limits), default=memory.total)
    rooms = [max(0, limit.limit_bytes - limit.used_bytes) for limit in limits]
    return MemoryFacts(min(total, memory.total), min([memory.available, *rooms]), total < memory.total)
