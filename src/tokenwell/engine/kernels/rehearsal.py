"""Calls that are rehearsed while others make them: their kernels are asked for, so that compilers have them early.

A call waits for each of its kernels before it comes to the next one, and a model's step has a dozen that are new. Kernels are
not launched in a rehearsal, so that it goes from one to the next at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from triton import knobs
from triton.runtime.jit import JITFunction


class _OverError(Exception):
    """Nobody needs a rehearsal any more."""


@contextmanager
def rehearsed(calls: Sequence[Callable[[], object]], compiling: Any, use: Callable[[], None]) -> Iterator[None]:
    """Meanwhile, from the first kernel on that is in no cache of files, a thread rehearses the calls in turn.

    `compiling`: Triton's `AsyncCompileMode`; `use` makes the calls' device the thread's.
    """
    launcher, told = JITFunction.__getitem__, knobs.compilation.listener
    new, over = threading.Event(), threading.Event()

    def listen(*, src: Any, metadata: Any, metadata_group: Any, times: Any, cache_hit: bool) -> None:
        if not cache_hit:
            new.set()

    def ask_or_launch(kernel: Any, grid: Any) -> Any:
        return partial(kernel.run, grid=grid, warmup=threading.current_thread() is scout)

    def rehearse() -> None:
        use()
        new.wait()
        for call in calls:
            if over.is_set():
                return
            with suppress(Exception), compiling, _Zeros(over), torch.inference_mode():  # the call itself will say what is wrong
                call()

    scout = threading.Thread(target=rehearse, name="scout", daemon=True)
    JITFunction.__getitem__, knobs.compilation.listener = ask_or_launch, listen
    scout.start()
    try:
        yield
    finally:
        over.set()
        new.set()
        scout.join()
        JITFunction.__getitem__, knobs.compilation.listener = launcher, told


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
            raise _OverError
        made = func(*args, **(kwargs or {}))
        return made.zero_() if func in self._UNFILLED else made
