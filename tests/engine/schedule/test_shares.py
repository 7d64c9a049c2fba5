"""Dividing a step's budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.engine.schedule.shares import divide, shares


@given(st.lists(st.integers(1, 50), max_size=10), st.integers(0, 120))
def test_shares_are_max_min_fair(wanted: list[int], budget: int) -> None:
    found = divide(wanted, budget)
    assert sum(found) == min(budget, sum(wanted))
    assert all(0 <= share <= want for share, want in zip(found, wanted, strict=True))
    for share, want in zip(found, wanted, strict=True):
        if share < want:
            assert max(found) <= share + 1, "someone got more although this one wanted more"


@given(st.lists(st.integers(1, 50), max_size=10), st.integers(0, 60), st.integers(0, 60))
def test_a_longer_step_makes_nobody_wait(wanted: list[int], usual: int, more: int) -> None:
    short, found = divide(wanted, usual), shares(wanted, usual, usual + more)
    assert sum(found) in (min(usual, sum(wanted)), min(usual + more, sum(wanted)))
    if sum(found) > usual:
        assert all(share < want for share, want in zip(short, wanted, strict=True))
    assert all(one <= other for one, other in zip(short, found, strict=True))


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
