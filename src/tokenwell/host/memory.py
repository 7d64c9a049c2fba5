"""How much memory there is for this process, control groups included. Unknown is None."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from tokenwell.host.cgroup import memory_limits


@dataclass(frozen=True)
class MemoryFacts:
    """Main memory in bytes."""

    total_bytes: int  # of the machine, or the smallest limit around this process
    available_bytes: int  # that can be taken now without swapping and without reaching a limit
    limited: bool  # True when a control group, not the machine, sets total_bytes


def read_memory(root: Path = Path("/")) -> MemoryFacts:
    """Facts about main memory now; `root` is the folder that holds proc/ and sys/ (the machine's own size is always real)."""
    machine = psutil.virtual_memory()
    limits = memory_limits(root)
    total = min((limit.limit_bytes for limit in limits), default=machine.total)
    rooms = [max(0, limit.limit_bytes - limit.used_bytes) for limit in limits]
    return MemoryFacts(min(total, machine.total), min([machine.available, *rooms]), total < machine.total)
