"""Whether the ranks' exchange of tensors can be trusted: known numbers go round, and every rank checks what it got.

Drivers and transports of several cards can give wrong sums or hang (users.md, row 15), so this comes before any weight is
loaded. Hangs are somebody else's business: who calls this has a time limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokenwell.engine.run.parallel import DIRECT_DEVICES, DirectSums, Ranks
from tokenwell.wire.errors import TokenwellError

SIZES = (1, 4096, 1 << 20)  # numbers; small and large messages take different paths through the libraries
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PERIOD = 7  # numbers repeat after so many: small whole ones, whose sums every dtype holds exactly


class ExchangeError(TokenwellError):
    """The ranks do not add up."""


def open_direct(ranks: Ranks) -> str:
    """Let small sums go through memory that all cards see, if every rank can and they add up; what was chosen, in words.

    Comes after `check`: the ranks tell each other about it.
    """
    if ranks.device.type not in DIRECT_DEVICES:
        return "all sums by the library"
    failed: str | None = None
    try:
        ranks.direct = DirectSums(ranks.device)
    except Exception as error:  # whatever a driver says
        failed = _words(error)
    if ranks.least([failed is None]) == [1]:
        try:
            _check_sums(ranks, (torch.float32, torch.bfloat16))
        except Exception as error:
            failed = _words(error)
    if ranks.least([failed is None]) == [1]:
        return "small sums through memory that the cards share"
    ranks.direct = None
    return f"all sums by the library: shared memory of the cards cannot be used ({failed or 'another rank cannot'})"


def _words(error: Exception) -> str:
    said = str(error).splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'without a word'}"


def _check_sums(ranks: Ranks, dtypes: Sequence[torch.dtype]) -> None:
    """All sums are made before the first is judged: a rank that stopped earlier would leave the others waiting."""
    made = []
    for dtype in dtypes:
        for size in SIZES:
            base = torch.arange(size, device=ranks.device) % _PERIOD
            total = base * ranks.world + ranks.world * (ranks.world - 1) // 2
            told = f"{size} numbers in {str(dtype).removeprefix('torch.')}"
            made.append((ranks.all_reduce((base + ranks.rank).to(dtype)), total, f"the sum of {told}"))
    for one in made:
        _same(*one)


def check(ranks: Ranks) -> None:
    """Sums, gathers and broadcasts of several sizes and dtypes. Raises ExchangeError naming the first that is wrong."""
    _check_sums(ranks, DTYPES)
    for dtype in DTYPES:
        for size in SIZES:
            base = torch.arange(size, device=ranks.device) % _PERIOD
            mine = (base + ranks.rank).to(dtype)
            told = f"{size} numbers in {str(dtype).removeprefix('torch.')}"
            _same(ranks.gather_last(mine), torch.cat([base + rank for rank in range(ranks.world)]), f"all ranks' {told}")
            _same(ranks.share(mine.clone()), base, f"rank 0's {told}")
    if ranks.least([ranks.rank + 3, -ranks.rank]) != [3, 1 - ranks.world]:
        raise ExchangeError("the smallest of whole numbers is wrong")


def _same(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    wrong = found.to(torch.int64) != expected
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        raise ExchangeError(
            f"{what} came out wrong in {int(wrong.sum())} places: number {place} is {found[place].item():g} "
            f"instead of {expected[place].item()}"
        )
