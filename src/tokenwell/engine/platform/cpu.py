"""The CPU as a device: torch on its own threads. Memory is the host's, container limits included."""

from __future__ import annotations

import torch

from tokenwell.engine.platform.base import Platform
from tokenwell.host.cpu import read_cpu
from tokenwell.host.memory import read_memory


def reason_not(index: int) -> str | None:
    """The CPU is always there, once."""
    return None if index == 0 else "there is one cpu device; use cpu without an index"


def open_device(index: int) -> Platform:
    """The CPU platform."""
    return CpuPlatform()


class CpuPlatform(Platform):
    """All usable cores as one device."""

    name = "cpu"
    default_num_seqs = 64
    default_batched_tokens = 256  # as fast as longer steps, and running streams stutter less
    # The host has other tenants: the page cache, the gateway, the user's programs.
    kv_share = 0.4

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def describe(self) -> str:
        return f"cpu ({read_cpu().model or 'unknown model'}, {torch.get_num_threads()} threads)"

    def free_bytes(self) -> int:
        return read_memory().available_bytes

    def compute_dtype(self, checkpoint: torch.dtype) -> tuple[torch.dtype, str]:
        if checkpoint == torch.float16:
            return torch.bfloat16, "config.json says float16, for which CPUs have no fast arithmetic"
        return checkpoint, "as config.json says"

    def synchronise(self) -> None:
        return None
