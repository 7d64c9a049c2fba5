"""Calls are rehearsed while compilers work: kernels are asked for before the calls come to them, and none is launched."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.waiting import PATIENCE_S
from triton import knobs
from triton.runtime.jit import JITFunction

from tokenwell.engine.kernels.compiling import side_by_side

DEVICE = torch.device("cuda", 0)


class Machine:
    """Stands for Triton: what was launched and what was only asked for, by name; the first launch finds no file of its kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
        self.launched: list[str] = []
        self.asked: list[str] = []
        self.second_asked = threading.Event()
        self._compiled = compiled
        monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
        monkeypatch.setattr(JITFunction, "run", self._run)

    def _run(self, kernel: str, *, grid: tuple[int, ...], warmup: bool) -> None:
        (self.asked if warmup else self.launched).append(kernel)
        if warmup and kernel == "second":
            self.second_asked.set()
        if not warmup:
            knobs.compilation.listener(src=None, metadata={}, metadata_group={}, times=None, cache_hit=self._compiled)


def kernel(name):  # type: ignore[no-untyped-def]
    pass


LAUNCHER = JITFunction(kernel)


def launch(name: str) -> None:
    LAUNCHER[(1,)](name)


def launch_in_rehearsal(until: threading.Event) -> bool:
    """Launch; whether this is the rehearsal. The call itself waits for something that happens there."""
    launch("first")
    if threading.current_thread().name == "scout":
        return True
    assert until.wait(PATIENCE_S)
    return False


def test_a_call_that_waits_for_a_compiler_is_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, compiled=False)

    def call() -> None:
        launch_in_rehearsal(machine.second_asked)

    assert side_by_side([call, lambda: launch("second")], DEVICE) == [None, None]
    assert sorted(machine.launched) == ["first", "second"]  # once each
    assert "second" in machine.asked


def test_calls_are_not_rehearsed_when_all_kernels_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, compiled=True)
    side_by_side([lambda: launch("first"), lambda: launch("second")], DEVICE)
    assert sorted(machine.launched) == ["first", "second"] and not machine.asked
    assert knobs.compilation.listener is None


def test_a_rehearsal_gets_zeros_and_its_failures_are_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, compiled=False)
    seen: list[bool] = []
    rehearsed = threading.Event()

    def reads() -> None:
        if not launch_in_rehearsal(rehearsed):
            return
        made = [torch.empty(1000), torch.empty_like(torch.ones(1000)), torch.ones(3).new_empty(1000)]
        seen.append(not any(tensor.any() for tensor in made))

    def fails() -> None:
        launch("first")
        if threading.current_thread().name == "scout":
            rehearsed.set()
            raise ValueError("nobody hears it")

    assert side_by_side([reads, fails], DEVICE) == [None, None]
    assert seen == [True]
    assert machine.launched == ["first", "first"]


def test_a_rehearsal_ends_when_the_calls_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, compiled=False)
    begun = threading.Event()

    def call() -> None:
        if launch_in_rehearsal(begun):
            begun.set()
            while True:
                torch.ones(1) + 1

    assert side_by_side([call], DEVICE) == [None]
