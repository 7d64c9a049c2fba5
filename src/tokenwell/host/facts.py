"""All that is known about this machine, in one value. Knows not what the facts are used for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenwell.host.cpu import CpuFacts, read_cpu
from tokenwell.host.memory import MemoryFacts, read_memory


@dataclass(frozen=True)
class HostFacts:
    """This machine as this process may use it."""

    cpu: CpuFacts
    memory: MemoryFacts


def read_host(root: Path = Path("/")) -> HostFacts:
    """Facts about the machine now; `root` is the folder that holds proc/ and sys/."""
    return HostFacts(read_cpu(root), read_memory(root))
