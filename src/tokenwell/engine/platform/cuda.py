"""NVIDIA cards through torch's CUDA runtime."""

from __future__ import annotations

import torch

from tokenwell.engine.platform import memory
from tokenwell.engine.platform.base import Platform
from tokenwell.wire.capacity import DEFAULTS

GIB = 1 << 30


def reason_not(index: int) -> str | None:
    """Why card `index` cannot be used, or None."""
    if torch.version.hip is not None:
        return "this torch is built for AMD cards"
    if not torch.cuda.is_available():
        return "this torch has no CUDA, or no NVIDIA card or driver is there"
    if index >= torch.cuda.device_count():
        return f"there are only {torch.cuda.device_count()} cards"
    return None


def open_device(index: int, threads: int | None) -> Platform:
    """Card `index`."""
    return CudaPlatform(index)


class CudaPlatform(Platform):
    """One NVIDIA card (or, by the same runtime calls, one AMD card)."""

    name = "cuda"
    defaults = DEFAULTS["cuda"]

    def __init__(self, index: int) -> None:
        self.device = torch.device("cuda", index)
        torch.cuda.set_device(self.device)

    def describe(self) -> str:
        total = torch.cuda.get_device_properties(self.device).total_memory
        return f"{self.name}:{self.device.index} ({torch.cuda.get_device_name(self.device)}, {total / GIB:.1f} GiB)"

    def compute_dtype(self, checkpoint: torch.dtype) -> tuple[torch.dtype, str]:
        chosen, reason = super().compute_dtype(checkpoint)
        if chosen == torch.bfloat16 and torch.cuda.get_device_capability(self.device) < (8, 0):
            # Not by itself: numbers of models that were trained in bfloat16 may pass what float16 can hold.
            reason += "; this card has no units for it: --dtype float16 is faster where the model bears it"
        return chosen, reason

    def free_bytes(self) -> int:
        return memory.free_bytes(self.device)

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.device)
