"""Two pieces of work that do not need each other's results, side by side on an accelerator.

Small kernels leave most of a card idle; beside a large one they cost next to nothing. Recordings keep the two branches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

from tokenwell.engine.platform import accelerator

One = TypeVar("One")
Other = TypeVar("Other")


@cache
def _queue(device: torch.device) -> torch.Stream:
    return torch.Stream(device=device)


def both(one: Callable[[], One], other: Callable[[], Other], device: torch.device) -> tuple[One, Other]:
    """The results of both; on a CPU one after the other.

    What `one` makes belongs to the second queue, which waits for the current one whenever it is used again: so its memory is
    not taken while the current queue reads it.
    """
    if device.type == "cpu" or accelerator.graphs_reason_not(device) is not None:
        return one(), other()
    current, second = torch.accelerator.current_stream(device), _queue(device)
    second.wait_stream(current)
    with second:
        first = one()
    result = first, other()
    current.wait_stream(second)
    return result
