"""Dividing a step's budget."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.engine.schedule.shares import divide


@given(st.lists(st.integers(1, 50), max_size=10), st.integers(0, 120))
def test_shares_are_max_min_fair(wanted: list[int], budget: int) -> None:
    shares = divide(wanted, budget)
    assert sum(shares) == min(budget, sum(wanted))
    assert all(0 <= share <= want for share, want in zip(shares, wanted, strict=True))
    for share, want in zip(shares, wanted, strict=True):
        if share < want:
            assert max(shares) <= share + 1, "someone got more although this one wanted more"


@pytest.mark.parametrize(
    ("wanted", "budget", "shares"),
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
def test_examples(wanted: list[int], budget: int, shares: list[int]) -> None:
    assert divide(wanted, budget) == shares
