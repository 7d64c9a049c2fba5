"""Calls side by side: their results and errors in order, and one compiler for each kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from tests.waiting import PATIENCE_S
from triton.language import constexpr
from triton.runtime import _async_compile
from triton.runtime.jit import JITFunction

from tokenwell.engine.kernels.compiling import side_by_side


def refuse() -> int:
    raise ValueError("out of registers")


def test_on_the_cpu_calls_are_made_in_turn() -> None:
    made: list[int] = []

    def call(number: int) -> Callable[[], int]:
        return lambda: made.append(number) or number

    one, error, three = side_by_side([call(1), refuse, call(3)], torch.device("cpu"))
    assert (one, three) == (1, 3) and made == [1, 3]
    assert isinstance(error, ValueError)
    assert side_by_side([], torch.device("cuda", 0)) == []


def test_on_an_accelerator_a_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", used.append)
    together = threading.Barrier(3, timeout=PATIENCE_S)
    compiled: list[int] = []

    def call() -> object:
        together.wait()
        mode = _async_compile.active_mode.get()
        assert mode is not None and torch.is_inference_mode_enabled()
        return mode.submit("a kernel", lambda: compiled.append(1) or SimpleNamespace(run=None), lambda kernel: None).result()

    results = side_by_side([call, call, call], torch.device("cuda", 2))
    assert set(used) == {2}
    assert len({id(one) for one in results}) == len(compiled) == 1
    assert _async_compile.active_mode.get() is None


def test_a_kernel_that_failed_is_compiled_again_by_who_asks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    kept: list[object] = []

    def ask(compile_kernel: Callable[[], object]) -> object:
        mode = _async_compile.active_mode.get()
        assert mode is not None
        return mode.submit("a kernel", compile_kernel, kept.append).result()

    errors = side_by_side([lambda: ask(refuse), lambda: ask(refuse)], torch.device("cuda", 0))
    assert [str(error) for error in errors] == ["out of registers"] * 2
    assert kept[-1] is None, "what is kept is waited for, and would fail for ever"

    class Unloaded:
        @property
        def run(self) -> object:
            raise MemoryError("no room for the program now")

    (error,) = side_by_side([lambda: ask(Unloaded)], torch.device("cuda", 0))
    assert isinstance(error, MemoryError) and kept[-1] is None


WIDTH = constexpr(16)


def _add(x):  # type: ignore[no-untyped-def]
    return x + WIDTH


def _one(x):  # type: ignore[no-untyped-def]
    return add(x)


def _other(x):  # type: ignore[no-untyped-def]
    return add(x) * 2


add = JITFunction(_add)


def test_a_kernels_name_in_the_cache_does_not_depend_on_who_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(order: tuple[int, int]) -> set[str]:
        monkeypatch.setitem(globals(), "add", JITFunction(_add))
        kernels = JITFunction(_one), JITFunction(_other)
        return {kernels[place].cache_key for place in order}

    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    side_by_side([lambda: None], torch.device("cuda", 0))  # whatever compiles makes names alike
    assert names((0, 1)) == names((1, 0))
