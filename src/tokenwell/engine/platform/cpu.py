"""The CPU as a device: torch on its own threads. Memory is the host's, container limits included."""

from __future__ import annotations

import torch

from tokenwell.engine.platform.base import Platform
from tokenwell.host.cpu import read_cpu
from tokenwell.host.memory import read_memory
from tokenwell.wire.capacity import DEFAULTS
from tokenwell.wire.messages import Choice


def reason_not(index: int) -> str | None:
    """The CPU is always there, once."""
    return None if index == 0 else "there is one cpu device; use cpu without an index"


def open_device(index: int, threads: int | None) -> Platform:
    """The CPU platform."""
    return CpuPlatform(threads)


class CpuPlatform(Platform):
    """All usable cores as one device."""

    name = "cpu"
    defaults = DEFAULTS["cpu"]

    def __init__(self, threads: int | None) -> None:
        self.device = torch.device("cpu")
        self.threads = threads

    def describe(self) -> str:
        return f"cpu ({read_cpu().model or 'unknown model'})"

    def free_bytes(self) -> int:
        return read_memory().available_bytes

    def suit(self, weights_bytes: int) -> Choice | None:
        if self.threads is not None:
            return Choice("threads", str(self.threads), "asked for")
        count, reason = read_cpu().threads_for(weights_bytes)
        if self.sharers > 1 and count > 1:
            count, reason = max(1, count // self.sharers), f"{reason}, shared by {self.sharers} processes"
        torch.set_num_threads(count)
        return Choice("threads", str(count), reason)

    def compute_dtype(self, checkpoint: torch.dtype) -> tuple[torch.dtype, str]:
        if checkpoint == torch.float16:
            return torch.bfloat16, "config.json says float16, for which CPUs have no fast arithmetic"
        return checkpoint, "as config.json says"

    def synchronise(self) -> None:
        return None
