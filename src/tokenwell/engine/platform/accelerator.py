"""What kernels and the step loop ask of an accelerator: whether Triton serves it, its units, and copies that nobody waits for.

Every answer is for a torch device; the CPU has plain answers to all of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Generic, TypeVar

import numpy as np
import torch

T = TypeVar("T")

_ALIGNMENT = 16  # bytes; what the widest load of a kernel wants
_KINDS = ("cuda", "xpu")  # AMD's build of torch calls its devices cuda, too


@cache
def kernels_reason_not(device: torch.device) -> str | None:
    """Why Triton kernels of ours cannot run on `device`; None when they can."""
    if device.type not in _KINDS:
        return f"Triton kernels are for accelerators, not for a {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed, which comes with torch's builds for accelerators"
    return None


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors (NVIDIA), compute units (AMD) or Xe cores (Intel): as many programs run side by side at least."""
    if device.type == "cuda":
        count: int = torch.cuda.get_device_properties(device).multi_processor_count
        return count
    if device.type == "xpu":
        return max(1, int(torch.xpu.get_device_properties(device).gpu_eu_count) // 8)
    return 4


@cache
def dependent_launch(device: torch.device) -> bool:
    """Whether a kernel may start while the one before it ends (NVIDIA's programmatic dependent launch, from Hopper on)."""
    return _nvidia(device, (9, 0))


def launch(device: torch.device) -> dict[str, bool]:
    """What every kernel that has a PDL is launched with: whether it may start while the one before it ends.

    Only compilers for devices that can do so know the option that says it to the launcher: others raise KeyError.
    """
    return {"PDL": True, "launch_pdl": True} if dependent_launch(device) else {"PDL": False}


@cache
def knows_e4m3(device: torch.device) -> bool:
    """Whether kernels for `device` should read and write e4m3 as such.

    Triton's compiler refuses it for NVIDIA's cards before Ada. For AMD's it takes ten times as long as for bytes to be decoded.
    """
    return device.type != "cuda" or _nvidia(device, (8, 9))


@cache
def held_bytes(itemsize: int, device: torch.device) -> int:
    """Bytes of a number of a KV cache that waits in shared memory: AMD's come by way of registers, where 8 bits become 16."""
    return max(2, itemsize) if device.type == "cuda" and torch.version.hip is not None else itemsize


def warps(count: int, device: torch.device) -> int:
    """Warps whose registers hold what those of `count` of NVIDIA's do, for kernels that keep large tiles.

    A warp of NVIDIA's has 32 kB, a hardware thread of Intel's 8 (Alchemist) or 16 (Battlemage) where it is given all it can have.
    Intel's own products (intel-xpu-backend-for-triton, benchmarks) give 256 x 256 results 32 warps, Triton's tutorial gives
    128 x 256 of them 8 on NVIDIA's.
    """
    return min(32, 4 * count) if device.type == "xpu" else count


@cache
def least_columns(device: torch.device) -> int:
    """Columns that the second matrix of a product in a kernel has at least.

    Intel's compiler wants as many as the smallest subgroup has lanes, 8 (Alchemist) or 16 (Battlemage): `min_dot_size` in its
    backend's compiler.py. NVIDIA's and AMD's take any number.
    """
    return min(torch.xpu.get_device_properties(device).sub_group_sizes) if device.type == "xpu" else 1


@cache
def fp8_units(device: torch.device) -> bool:
    """Whether torch multiplies e4m3 matrices with scales for rows and columns on `device`."""
    return _nvidia(device, (8, 9))


def _nvidia(device: torch.device, capability: tuple[int, int]) -> bool:
    """Whether `device` is a card of NVIDIA's with this compute capability or a later one."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= capability


class Readback:
    """A copy of a device tensor on its way to the host."""

    __slots__ = ("_event", "_host")

    def __init__(self, tensor: torch.Tensor) -> None:
        self._event: Any = None
        self._host = tensor
        if tensor.device.type != "cpu":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.Event(tensor.device)
            self._event.record()

    def result(self) -> torch.Tensor:
        """The copy, on the CPU, once it is there."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._host


def readback(tensor: torch.Tensor) -> Readback:
    """Queue a copy of `tensor` to the host; on the CPU it is the tensor itself."""
    return Readback(tensor)


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """`array` on the device, without waiting for the device."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def uploads(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """Several arrays on the device by one copy; they share memory there."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packed = torch.empty(packed_bytes(arrays), dtype=torch.uint8, device=device)
    refresh(arrays, packed)
    return unpack(arrays, packed)


def packed_bytes(arrays: Sequence[np.ndarray]) -> int:
    """Bytes of the arrays one after the other, each on an aligned address."""
    return sum(-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays)


def pack(arrays: Sequence[np.ndarray], into: np.ndarray) -> None:
    """Copy the arrays into a uint8 array of `packed_bytes`."""
    start = 0
    for array in arrays:
        into[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        start += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT


def refresh(arrays: Sequence[np.ndarray], packed: torch.Tensor) -> None:
    """Write the arrays into a device tensor [packed_bytes] uint8 by one copy, without waiting for it."""
    if packed.device.type == "cpu":
        pack(arrays, packed.numpy())
        return
    staging = torch.empty(packed.shape, dtype=torch.uint8, pin_memory=True)
    pack(arrays, staging.numpy())
    packed.copy_(staging, non_blocking=True)


def unpack(arrays: Sequence[np.ndarray], packed: torch.Tensor) -> list[torch.Tensor]:
    """Views of a packed tensor, shaped and typed as `arrays`."""
    views, start = [], 0
    for array in arrays:
        view = packed[start : start + array.nbytes].view(torch.from_numpy(array).dtype)
        views.append(view.view(array.shape))
        start += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return views


def graphs_reason_not(device: torch.device) -> str | None:
    """Why work on `device` cannot be recorded and replayed; None when it can."""
    if device.type == "cuda":
        return None
    if device.type == "xpu":
        return None if hasattr(torch.xpu, "XPUGraph") else "this torch records no graphs on Intel cards"
    if device.type == "cpu":
        from tokenwell.engine.kernels import cpu_pool

        return cpu_pool.reason_not(torch.bfloat16, device)
    return f"there are no graphs on a {device.type}"


class Recording(Generic[T]):
    """Device work that was recorded once and can be replayed; what it returned lies at the same addresses every time."""

    output: T

    def __init__(self, work: Callable[[], T], device: torch.device, pool: object | None = None) -> None:
        """Record `work`, which has run before. Recordings that share a `pool` must not run at the same time."""
        if device.type == "cpu":
            from tokenwell.engine.platform.cpu_graph import CpuGraph

            self._graph: Any = CpuGraph()
            with self._graph.recording():
                self.output = work()
            self.pool: object = None
            return
        runtime: Any = torch.cuda if device.type == "cuda" else torch.xpu
        self._graph = runtime.CUDAGraph() if device.type == "cuda" else runtime.XPUGraph()
        with runtime.graph(self._graph, pool=pool):
            self.output = work()
        self.pool = self._graph.pool()

    def replay(self) -> None:
        """Queue the recorded work."""
        self._graph.replay()
