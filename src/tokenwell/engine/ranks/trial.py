"""Whether the ranks' exchange of tensors can be trusted: known numbers go round, and every rank checks what it got.

Drivers and transports of several cards can give wrong sums or hang (users.md, row 15), so this comes before any weight is
loaded. Hangs are somebody else's business: who calls this has a time limit.
"""

from __future__ import annotations

import torch

from tokenwell.engine.run.parallel import Ranks
from tokenwell.wire.errors import TokenwellError

SIZES = (1, 4096, 1 << 20)  # numbers; small and large messages take different paths through the libraries
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PERIOD = 7  # numbers repeat after so many: small whole ones, whose sums every dtype holds exactly


class ExchangeError(TokenwellError):
    """The ranks do not add up."""


def check(ranks: Ranks) -> None:
    """Sums, gathers and broadcasts of several sizes and dtypes. Raises ExchangeError naming the first that is wrong."""
    for dtype in DTYPES:
        for size in SIZES:
            base = torch.arange(size, device=ranks.device) % _PERIOD
            mine = (base + ranks.rank).to(dtype)
            told = f"{size} numbers in {str(dtype).removeprefix('torch.')}"
            total = base * ranks.world + ranks.world * (ranks.world - 1) // 2
            _same(ranks.all_reduce(mine.clone()), total, f"the sum of {told}")
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
