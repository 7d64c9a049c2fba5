"""How a step's token budget is divided between the prompts that want more than one token. Knows keys and numbers only.

Dividing it fairly would serve 8 equal prompts side by side, so that all 8 first tokens come as late as the last. Instead prompts
are served one after the other, in the order in which they would be done if every step were divided fairly: nobody's first
token comes later for it, but for a step that rounding may cost, and most come earlier, of equal prompts on average in half the
time (Friedman & Henderson 2003, "Fairness and Efficiency in Web Server Protocols": the fair sojourn protocol).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Whose turn it is, step after step."""

    def __init__(self) -> None:
        self._left: dict[K, int] = {}  # tokens that the prompts still wanted if all steps had been divided fairly
        self._ahead: list[int] = []  # the same of prompts that are done already

    def take(self, wanted: Mapping[K, int], usual: int, longest: int) -> dict[K, int]:
        """Tokens of a step for each prompt, oldest first in `wanted`; 0 for those whose turn comes later.

        The step has `usual` tokens, or `longest` where the usual ones would end no prompt: then nobody waits longer for it.
        """
        left = {key: self._left.get(key, tokens) for key, tokens in wanted.items()}
        served = sorted(wanted, key=left.__getitem__)
        budget = usual if wanted and wanted[served[0]] <= usual else max(usual, longest)
        shares, spare = dict.fromkeys(wanted, 0), budget
        for key in served:
            shares[key] = min(wanted[key], spare)
            spare -= shares[key]
        fair = divide([*left.values(), *self._ahead], budget)
        self._ahead = [before - share for before, share in zip(self._ahead, fair[len(left) :], strict=True) if before > share]
        self._left = {}
        for (key, before), share in zip(left.items(), fair, strict=False):
            if shares[key] < wanted[key]:
                self._left[key] = before - share
            elif before > share:
                self._ahead.append(before - share)
        return shares


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
