"""How a kernel of attention cuts a product of many queries and keys, and what of a product shared memory can hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from triton.runtime import driver

LEAST = 16  # rows and columns of a product


@dataclass(frozen=True)
class Tiling:
    """Queries (times heads) and keys of a tile, warps, and depth of loads in flight."""

    tile: int
    block: int
    warps: int
    stages: int
    apart: bool = True  # blocks of keys that need no mask are a loop of their own
    late: bool = False  # values are multiplied one block late
    shares: int = 1  # programs that share the channels of values, each with all scores

    def shared_bytes(self, dim: int, itemsize: int) -> int:
        """Of the queries, and of the keys and values in flight, `dim` channels of `itemsize` bytes each."""
        return itemsize * (self.tile * dim + self.stages * self.block * (dim + dim // self.shares))

    def fitted(self, queries: int, dim: int, itemsize: int, room: int) -> Tiling:
        """A tile that holds at least `queries`, and a smaller tiling where this one needs more than `room` bytes."""
        least = max(LEAST, 1 << (queries - 1).bit_length())
        tiling = replace(self, tile=max(self.tile, least))
        while tiling.shared_bytes(dim, itemsize) > room:
            if tiling.block > LEAST and (tiling.block > 2 * LEAST or tiling.tile == least):
                tiling = replace(tiling, block=tiling.block // 2)
            elif tiling.tile > least:
                tiling = replace(tiling, tile=tiling.tile // 2)
            else:
                break
        return tiling


@cache
def room_bytes(device: torch.device) -> int:
    """Shared memory that one program may have."""
    if device.type == "cpu":  # the interpreter
        return 1 << 20
    # A kilobyte is for barriers and sums.
    return int(driver.active.utils.get_device_properties(device.index or 0)["max_shared_mem"]) - 1024


def stages_that_fit(stages: int, step_bytes: int, room: int) -> int:
    """`stages` of a loop whose products read `step_bytes` a step, or as many as `room` bytes hold: at least one.

    Most cards have 100 kB or more for a program; AMD's, Intel's and old ones 64. While a step is multiplied, the others lie
    there; the room of one more is for what compilers put there beside them.
    """
    return max(1, min(stages, room // step_bytes))
