"""How a step's token budget is divided between the rows that want more than one token. Knows numbers only."""

from __future__ import annotations


def shares(wanted: list[int], usual: int, longest: int) -> list[int]:
    """How a step divides `usual` tokens, or `longest` where the usual ones would not give anybody all that is wanted.

    Then nobody's end comes later for it: not that of whom a shorter step would serve first.
    """
    divided = divide(wanted, usual)
    if longest <= usual or any(share == want for share, want in zip(divided, wanted, strict=True)):
        return divided
    return divide(wanted, longest)


def divide(wanted: list[int], budget: int) -> list[int]:
    """Max-min fair whole shares (water-filling; Bertsekas & Gallager, Data Networks, section 6.5.2).

    Nobody gets more than wanted, and nobody could get more without taking from one that has no more than itself. Single
    tokens that cannot be divided go to the first in order.
    """
    left, level = budget, max(wanted, default=0)
    for rank, want in enumerate(sorted(wanted)):
        share = left // (len(wanted) - rank)
        if want > share:
            level = share
            break
        left -= want
    shares = [min(want, level) for want in wanted]
    left = budget - sum(shares)
    for index, want in enumerate(wanted):
        if left and shares[index] < want:
            shares[index] += 1
            left -= 1
    return shares
