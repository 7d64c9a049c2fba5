"""AMD cards: torch's HIP build answers the same calls as CUDA. Not verified on hardware."""

from __future__ import annotations

import torch

from tokenwell.engine.platform.base import Platform
from tokenwell.engine.platform.cuda import CudaPlatform
from tokenwell.wire.capacity import DEFAULTS


def reason_not(index: int) -> str | None:
    """Why card `index` cannot be used, or None."""
    if torch.version.hip is None:
        return "this torch is not built for AMD cards"
    if not torch.cuda.is_available():
        return "no AMD card or driver is there"
    if index >= torch.cuda.device_count():
        return f"there are only {torch.cuda.device_count()} cards"
    return None


def open_device(index: int, threads: int | None) -> Platform:
    """Card `index`."""
    return RocmPlatform(index)


class RocmPlatform(CudaPlatform):
    """One AMD card."""

    name = "rocm"
    defaults = DEFAULTS["rocm"]
