"""How much of an accelerator's memory work takes, from torch's own counters. On the CPU nothing is counted."""

from __future__ import annotations

from collections.abc import Callable

import torch


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that torch's allocator reserves beyond what it holds before, while `work` runs; they are given back.

    Raises torch.OutOfMemoryError as `work` does, once what it held is given back.
    """
    if device.type == "cpu":
        work()
        return 0
    release(device)
    before = torch.accelerator.memory_reserved(device)
    torch.accelerator.reset_peak_memory_stats(device)
    try:
        work()
        torch.accelerator.synchronize(device)
        return max(0, torch.accelerator.max_memory_reserved(device) - before)
    finally:
        release(device)


def held_bytes(device: torch.device) -> int:
    """Bytes of living tensors on the device."""
    return 0 if device.type == "cpu" else int(torch.accelerator.memory_allocated(device))


def release(device: torch.device) -> None:
    """Give memory that torch only keeps for later back to the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
        torch.accelerator.empty_cache()
