"""How many prompt tokens steps take beside rows that decode, on machines of all speeds."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.schedule.pace import PAUSE_S, Pace


class Machine(NamedTuple):
    """Seconds of a step without prompts, and of one with prompts: once and for each token."""

    alone: float
    fixed: float
    each: float

    @property
    def longest(self) -> float:
        """A step with prompts beside rows that decode."""
        return max(self.alone + max(PAUSE_S, self.alone), 2 * self.fixed)

    def took(self, tokens: int) -> float:
        return self.fixed + tokens * self.each


MACHINES = {
    "gpt-oss-20b on an H200": Machine(0.005, 0.015, 1 / 75_000),
    "8B on a B580": Machine(0.045, 0.045, 1 / 3000),
    "0.5B on two cores": Machine(0.028, 0.03, 1 / 480),
    "7B on two cores": Machine(0.45, 0.45, 1 / 30),
}


def steps(pace: Pace, machine: Machine, most: int, prompts: list[int]) -> list[int]:
    """The tokens of the steps that compute the prompts one after the other, with two that only decode before each."""
    found = []
    for prompt in prompts:
        pace.note(0, machine.alone)
        pace.note(0, machine.alone)
        while prompt:
            found.append(min(prompt, pace.tokens(most)))
            pace.note(found[-1], machine.took(found[-1]))
            prompt -= found[-1]
    return found


def started(machine: Machine, first: int) -> Pace:
    """A prompt comes before anybody decodes."""
    pace = Pace()
    pace.note(first, machine.took(first))
    return pace


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("first", [1, 40, 3000])
def test_a_pause_is_as_long_as_it_may_be(name: str, first: int) -> None:
    machine = MACHINES[name]
    found = steps(started(machine, first), machine, 8192, [300, 90_000])
    long = found[8:-1]  # the last one is what is left of the prompt
    assert all(tokens <= 16 or machine.took(tokens) < 1.05 * machine.longest for tokens in long)
    assert all(machine.took(tokens) > 0.9 * min(machine.longest, machine.took(8192)) for tokens in long)


@settings(max_examples=100, deadline=None)
@given(
    alone=st.floats(0.001, 0.5), more=st.floats(1, 4), each=st.floats(1e-6, 0.02), first=st.integers(1, 5000),
    most=st.sampled_from([256, 2048, 8192]), prompts=st.lists(st.integers(2, 9000), min_size=1, max_size=6),
)  # fmt: skip
def test_no_pause_is_long_once_some_steps_are_known(
    alone: float, more: float, each: float, first: int, most: int, prompts: list[int]
) -> None:
    machine = Machine(alone, alone * more, each)
    found = steps(started(machine, first), machine, most, prompts)
    assert all(2 <= tokens <= most or tokens in prompts or tokens == 1 for tokens in found)
    assert all(tokens <= 16 or machine.took(tokens) < 1.5 * machine.longest for tokens in found[6:])


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("at", [0, 1, 8])
def test_a_stall_is_soon_forgotten(name: str, at: int) -> None:
    """As when a kernel is compiled."""
    machine, pace = MACHINES[name], Pace()
    tokens, found = 50, []
    for step in range(24):
        pace.note(tokens, machine.took(tokens) + 3 * (step == at))
        pace.note(0, machine.alone)
        tokens = pace.tokens(8192)
        found.append(tokens)
    assert found[-1] <= 16 or 0.8 * machine.longest < machine.took(found[-1]) < 1.25 * machine.longest


def test_who_knows_nothing_goes_on_as_without_it() -> None:
    pace = Pace()
    assert pace.tokens(512) == 512
    pace.note(0, 0.01)
    assert pace.tokens(512) == 512
    assert pace.tokens(3) == 3


def test_a_slower_card_takes_fewer_tokens() -> None:
    machines = [Machine(0.01, 0.02, each) for each in (1e-5, 1e-4, 1e-3)]
    found = [steps(started(machine, 500), machine, 8192, [5000])[1] for machine in machines]
    assert all(fast > slow for fast, slow in pairwise(found))
