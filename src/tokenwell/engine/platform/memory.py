"""How much memory models and work take: of tensors by looking at them, of work on an accelerator by torch's own counters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch

from tokenwell.wire.capacity import UTILISATION


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


def free_bytes(device: torch.device) -> int:
    """Bytes of an accelerator that nobody has taken."""
    if device.type == "xpu":
        # Drivers that cannot tell raise RuntimeError (pytorch#164429), others do not count what torch holds (pytorch#161381).
        left: int = torch.xpu.get_device_properties(device).total_memory - torch.xpu.memory_reserved(device)
        with suppress(RuntimeError):
            left = min(left, torch.xpu.mem_get_info(device)[0])
        return left
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def spare_bytes(device: torch.device, planned: int) -> int:
    """Free bytes of a device beside those that are planned with and those kept for fragments; of the CPU's there are enough."""
    if device.type == "cpu":
        return 1 << 62
    total = getattr(torch, device.type).get_device_properties(device).total_memory
    return max(0, free_bytes(device) - planned - round((1 - UTILISATION) / 2 * total))


def held_bytes(device: torch.device) -> int:
    """Bytes of living tensors on the device, as torch counts them; on the CPU nothing is counted."""
    return 0 if device.type == "cpu" else int(torch.accelerator.memory_allocated(device))


def tensor_bytes(root: object, device: torch.device) -> int:
    """Bytes of the tensors on `device` that an object of ours leads to; tensors that share memory are counted once."""
    sizes: dict[int, int] = {}
    seen: set[int] = set()
    left = [root]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            sizes[storage._cdata] = storage.nbytes() if one.device == device else 0
        elif isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple):
            left += one
        elif type(one).__module__.startswith(__package__.partition(".")[0]):
            left += getattr(one, "__dict__", {}).values()
            left += (getattr(one, name) for name in getattr(type(one), "__slots__", ()) if hasattr(one, name))
    return sum(sizes.values())


def release(device: torch.device) -> None:
    """Give memory that torch only keeps for later back to the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
        torch.accelerator.empty_cache()
