"""Intel cards through torch's XPU runtime. Not verified on hardware."""

from __future__ import annotations

import torch

from tokenwell.engine.platform import memory
from tokenwell.engine.platform.base import Platform
from tokenwell.wire.capacity import DEFAULTS

GIB = 1 << 30


def reason_not(index: int) -> str | None:
    """Why card `index` cannot be used, or None."""
    if not torch.xpu.is_available():
        return "this torch has no XPU, or no Intel card or driver is there"
    if index >= torch.xpu.device_count():
        return f"there are only {torch.xpu.device_count()} cards"
    return None


def open_device(index: int, threads: int | None) -> Platform:
    """Card `index`."""
    return XpuPlatform(index)


class XpuPlatform(Platform):
    """One Intel card."""

    name = "xpu"
    defaults = DEFAULTS["xpu"]

    def __init__(self, index: int) -> None:
        self.device = torch.device("xpu", index)
        torch.xpu.set_device(self.device)

    def describe(self) -> str:
        properties = torch.xpu.get_device_properties(self.device)
        return f"xpu:{self.device.index} ({properties.name}, {properties.total_memory / GIB:.1f} GiB)"

    def free_bytes(self) -> int:
        return memory.free_bytes(self.device)

    def synchronise(self) -> None:
        torch.xpu.synchronize(self.device)
