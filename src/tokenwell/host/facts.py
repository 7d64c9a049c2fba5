"""All that is known about this machine, in one value. Knows not what the facts are used for."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwell.host.cpu import CpuFacts, read_cpu
from tokenwell.host.machine import Machine
from tokenwell.host.memory import MemoryFacts, read_memory


@dataclass(frozen=True)
class HostFacts:
    """This machine as this process may use it."""

    cpu: CpuFacts
    memory: MemoryFacts


def read_host(machine: Machine | None = None) -> HostFacts:
    """Facts about the machine now."""
    return HostFacts(read_cpu(machine), read_memory(machine))
