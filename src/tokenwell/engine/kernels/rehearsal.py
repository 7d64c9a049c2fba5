"""Calls that are rehearsed while others make them: their kernels are asked for, so that compilers have them early.

A call waits for each of its kernels before it comes to the next one, and a model's step has a dozen that are new. Kernels are
not launched in a rehearsal, so that it goes from one to the next at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from triton import knobs
from triton.runtime.jit import JITFunction

_ENOUGH = 64  # launches in a row of kernels that are known: what follows in a call is more of the same


class _EnoughError(Exception):
    """A rehearsed call has shown its kernels, or nobody needs them any more."""


@contextmanager
def rehearsed(calls: Sequence[Callable[[], object]], compiling: Any, use: Callable[[], None]) -> Iterator[None]:
    """Meanwhile, from the first kernel on that is in no cache of files, a thread rehearses the calls in turn.

    `compiling`: Triton's `AsyncCompileMode`; `use` makes the calls' device the thread's.
    """
    run, told = JITFunction.run, knobs.compilation.listener
    new, over = threading.Event(), threading.Event()
    known = 0  # launches in the rehearsal since the last one of a new kernel

    def listen(**said: Any) -> None:
        if not said["cache_hit"]:
            new.set()
        if told is not None:
            told(**said)

    def ask(kernel: Any, *given: Any, warmup: bool, **named: Any) -> Any:
        nonlocal known
        if threading.current_thread() is not scout:
            return run(kernel, *given, warmup=warmup, **named)
        before = len(compiling.future_kernels)
        made = run(kernel, *given, warmup=True, **named)
        known = known + 1 if len(compiling.future_kernels) == before else 0
        if known > _ENOUGH:
            raise _EnoughError
        return made

    def rehearse() -> None:
        nonlocal known
        use()
        new.wait()
        for call in calls:
            if over.is_set():
                return
            known = 0
            with suppress(Exception), compiling, _Zeros(over), torch.inference_mode():  # the call itself will say what is wrong
                call()

    scout = threading.Thread(target=rehearse, name="scout", daemon=True)
    JITFunction.run, knobs.compilation.listener = ask, listen
    scout.start()
    try:
        yield
    finally:
        over.set()
        new.set()
        scout.join()
        JITFunction.run, knobs.compilation.listener = run, told


class _Zeros(TorchFunctionMode):
    """Meanwhile this thread's new tensors are filled: what a kernel would have written may be read as an index.

    Torch does nothing more for the thread once it is over.
    """

    _UNFILLED = (torch.empty, torch.empty_like, torch.empty_strided, torch.Tensor.new_empty)

    def __init__(self, over: threading.Event) -> None:
        super().__init__()
        self._over = over

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._over.is_set():
            raise _EnoughError
        made = func(*args, **(kwargs or {}))
        return made.zero_() if func in self._UNFILLED else made
