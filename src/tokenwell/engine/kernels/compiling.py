"""Calls that are made side by side for what they compile: compilers take long, and most of their work needs no Python lock.

Knows no kernel. Triton alone would compile a kernel once for every thread that asks for it before it is there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch

_CALLERS = 64  # threads; nearly all of them wait for compilers

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], device: torch.device) -> list[T | Exception]:
    """What each call returns or raises. On an accelerator they run in threads, and kernels are compiled once, several at a time.

    The calls' work on the device is queued in no particular order, all of it on one stream.
    """

    def make(call: Callable[[], T]) -> T | Exception:
        try:
            with compiling, torch.inference_mode():
                return call()
        except Exception as error:  # whatever a compiler or driver raises
            return error

    compiling: AbstractContextManager[object] = nullcontext()
    if device.type == "cpu" or not calls:
        return [make(call) for call in calls]
    use = partial(torch.accelerator.set_device_index, device.index or 0)
    with ThreadPoolExecutor(os.cpu_count(), "compilers") as compilers:
        compiling = _once(compilers)
        with ThreadPoolExecutor(min(len(calls), _CALLERS), "kernels", use) as callers:
            return list(callers.map(make, calls))


def _once(compilers: Executor) -> AbstractContextManager[object]:
    """Meanwhile a thread that needs a kernel waits for the one compiler that makes it."""
    import triton

    if not hasattr(triton, "AsyncCompileMode"):
        return nullcontext()
    lock = threading.Lock()

    class Once(triton.AsyncCompileMode):
        """Triton's, for several threads that ask for the same kernel."""

        def submit(self, *given: Any) -> Any:
            """The kernel that somebody is compiling, or will be."""
            with lock:
                kernel = super().submit(*given)
                self.raw_futures.clear()  # who leaves has waited for its own kernels and need not wait for others'
                return kernel

    return Once(compilers, ignore_errors=True)
