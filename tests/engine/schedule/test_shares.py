"""Dividing a step's budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.engine.schedule.shares import Turns, divide


@given(st.lists(st.integers(1, 50), max_size=10), st.integers(0, 120))
def test_shares_are_max_min_fair(wanted: list[int], budget: int) -> None:
    found = divide(wanted, budget)
    assert sum(found) == min(budget, sum(wanted))
    assert all(0 <= share <= want for share, want in zip(found, wanted, strict=True))
    for share, want in zip(found, wanted, strict=True):
        if share < want:
            assert max(found) <= share + 1, "someone got more although this one wanted more"


Jobs = list[tuple[int, int]]  # the step before which a prompt comes, and its tokens


def ends(jobs: Jobs, budgets: list[int], turns: bool) -> dict[int, int]:
    """The step in which each prompt is done, with turns or with every step divided fairly."""
    order, left, done = Turns[int](), dict[int, int](), dict[int, int]()
    for step, budget in enumerate(budgets):
        left |= {job: tokens for job, (before, tokens) in enumerate(jobs) if before == step}
        found = order.take(left, budget, budget)
        if not turns:
            found = dict(zip(left, divide(list(left.values()), budget), strict=True))
        assert sum(found.values()) == min(budget, sum(left.values()))
        done |= {job: step for job, tokens in left.items() if found[job] == tokens}
        left = {job: tokens - found[job] for job, tokens in left.items() if found[job] < tokens}
    return done


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([1, 2, 5, 30, 30, 80, 200])), max_size=8).map(sorted),
    st.lists(st.integers(5, 25), min_size=12, max_size=12),
)
def test_nobody_is_done_later_than_if_steps_were_divided_fairly(jobs: Jobs, budgets: list[int]) -> None:
    budgets = budgets + [16] * 100
    fair, found = ends(jobs, budgets, turns=False), ends(jobs, budgets, turns=True)
    assert found.keys() == fair.keys() == set(range(len(jobs)))
    assert all(found[job] <= fair[job] + 1 for job in fair), "rounding costs one step at most"


@given(st.integers(1, 12), st.integers(1, 300), st.integers(1, 64))
def test_of_equal_prompts_the_first_is_done_first(count: int, tokens: int, budget: int) -> None:
    jobs = [(0, tokens)] * count
    found = ends(jobs, [budget] * (count * tokens), turns=True)
    assert [found[job] for job in range(count)] == [(tokens * (job + 1) - 1) // budget for job in range(count)]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=10), st.integers(1, 60), st.integers(0, 60))
def test_a_longer_step_makes_nobody_wait(wanted: list[int], usual: int, more: int) -> None:
    given_, longest = dict(enumerate(wanted)), usual + more
    short, found = Turns[int]().take(given_, usual, usual), Turns[int]().take(given_, usual, longest)
    if any(short[key] == want for key, want in given_.items()):
        assert found == short
    else:
        assert sum(found.values()) == min(longest, sum(wanted))
        assert all(short[key] <= found[key] for key in given_)


def test_one_that_leaves_is_forgotten() -> None:
    """Aborted, or preempted and back with more to do than before."""
    turns = Turns[str]()
    assert turns.take({"long": 50, "short": 30}, 10, 10) == {"long": 0, "short": 10}
    assert turns.take({"long": 50}, 10, 10) == {"long": 10}
    assert turns.take({"long": 40, "short": 31}, 10, 10) == {"long": 0, "short": 10}


@pytest.mark.parametrize(
    ("wanted", "budget", "expected"),
    [
        ([], 8, []),
        ([5], 8, [5]),
        ([10, 10, 10], 30, [10, 10, 10]),
        ([100, 2, 100], 12, [5, 2, 5]),  # the short one is done, the long ones share what is left
        ([100, 100, 100], 10, [4, 3, 3]),  # the odd token goes to the first
        ([100, 100, 2], 2, [1, 1, 0]),  # too little for all: the first in order
        ([100, 100], 0, [0, 0]),
    ],
)
def test_examples(wanted: list[int], budget: int, expected: list[int]) -> None:
    assert divide(wanted, budget) == expected
