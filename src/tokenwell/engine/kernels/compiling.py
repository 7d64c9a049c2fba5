"""Calls that are made side by side for what they compile: compilers take long, and most of their work needs no Python lock.

Knows no kernel. Triton alone would compile a kernel once for every thread that asks for it before it is there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, TypeVar

import torch

_CALLERS = 64  # threads; nearly all of them wait for compilers

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], device: torch.device) -> list[T | Exception]:
    """What each call returns or raises. On an accelerator they run in threads, and kernels are compiled once, several at a time.

    While kernels are compiled a thread goes ahead of the others and rehearses the calls: it asks for their kernels and launches
    none, so that a call need not wait for one before the next is asked for. So a call may be made twice, and must mind neither
    that nor, in the rehearsal, that tensors it got from kernels are zero. The calls' work on the device is queued in no
    particular order, all of it on one stream.
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
    with ThreadPoolExecutor(os.cpu_count(), "compilers", use) as compilers:
        ahead: AbstractContextManager[object] = nullcontext()
        once = _once(compilers)
        if once is not None:
            from tokenwell.engine.kernels.rehearsal import rehearsed

            compiling, ahead = once, rehearsed(calls, once, use)
        with ThreadPoolExecutor(min(len(calls), _CALLERS), "kernels", use) as callers, ahead:
            return list(callers.map(make, calls))


def _once(compilers: Executor) -> Any:
    """Meanwhile a thread that needs a kernel waits for the one compiler that makes it; None where Triton cannot do that."""
    import triton

    if not hasattr(triton, "AsyncCompileMode"):
        return None
    _name_alike()
    lock = threading.Lock()

    class Once(triton.AsyncCompileMode):
        """Triton's, for several threads that ask for the same kernel."""

        def submit(self, key: Any, compile_kernel: Callable[[], Any], keep: Callable[[Any], None]) -> Any:
            """The kernel that somebody is compiling, or will be."""

            def ready() -> Any:
                kernel = compile_kernel()
                kernel.run  # noqa: B018  # asked for the first time it compiles what launches it, and is loaded
                return kernel

            with lock:
                kernel = super().submit(key, ready, keep)
                keep(kernel)  # as one that can be waited for: whoever wants the same is spared what leads to here
                # For lack of memory, for instance: who asks next shall not meet the same failure.
                kernel.future.add_done_callback(lambda future: keep(None) if future.exception() else None)
                self.raw_futures.clear()  # who leaves has waited for its own kernels and need not wait for others'
                return kernel

    return Once(compilers, ignore_errors=True)


@cache
def _name_alike() -> None:
    """From now on a kernel has one name in Triton's cache of files, whichever kernel is asked for first.

    Of the functions that a kernel calls, Triton 3.6 counts the constants only if it has named these functions before.
    """
    from triton.runtime.jit import DependenciesFinder

    count = DependenciesFinder._update_hash

    def name_first(finder: Any, called: Any) -> None:
        called.cache_key  # noqa: B018  # is worked out when it is asked for
        count(finder, called)

    DependenciesFinder._update_hash = name_first
