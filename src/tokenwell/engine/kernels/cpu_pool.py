"""torch's OpenMP threads, for generated machine code.

A second pool would fight with torch's, whose threads spin between operations.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Called with address, context and threads of every call of generated code meanwhile; one thread records.
Listener = Callable[[int, "array[int]", int], None]
_listener: Listener | None = None


def note(address: int, context: array[int], threads: int) -> None:
    """Tell whoever listens that a function was called; the first field of its context is a counter that begins at 0."""
    if _listener is not None:
        _listener(address, context, threads)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Meanwhile every call of generated code is told."""
    global _listener
    assert _listener is None
    _listener = listener
    try:
        yield
    finally:
        _listener = None


@functools.cache
def thread_pool() -> Callable[..., None] | None:
    """GOMP_parallel(function, data, threads, flags) of the OpenMP library that torch has loaded."""
    try:
        run = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError):
        return None
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


@functools.cache
def host() -> Any:
    """The cpu_ir.Isa of this machine; None where code cannot be generated."""
    try:
        from tokenwell.engine.kernels import cpu_ir
    except ImportError:
        return None
    return cpu_ir.host_isa()


@functools.cache
def reason_not(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why generated code cannot compute with such tensors on this machine; None if it can."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return f"only bfloat16 on the CPU has a kernel, not {str(dtype).removeprefix('torch.')} on {device}"
    try:
        import llvmlite  # noqa: F401
    except ImportError:
        return "llvmlite is not installed"
    if host() is None:
        return "the CPU is not an x86-64 with AVX2 and FMA"
    if thread_pool() is None:
        return "torch's OpenMP library has no GOMP_parallel"
    return None
