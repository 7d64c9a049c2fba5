"""Which part of a tensor a rank takes, as a span of indices a dimension. Pure arithmetic: no torch, no files.

layer weight                          span
column parallel [out, in]             dim 0: even(out, rank, world)
row parallel    [out, in]             dim 1: even(in, rank, world)
k_proj, v_proj  [kv_heads * d, in]    dim 0: head_rows(kv_heads, d, rank, world)   heads repeat when ranks outnumber them
fused experts   [E, 2I, H]            dim 1: even(2I, rank, world, block=0, blocks=2) gate, block=1 up
interleaved     [E, 2I, H]            dim 1: strided(2I, rank, world, offset=0, step=2) gate, offset=1 up
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenwell.wire.errors import CheckpointError

Span = tuple[int, int] | tuple[int, int, int]  # (start, stop) or (start, stop, step), inside the dimension
Part = Sequence[Span | None]  # one for each leading dimension; None and dimensions that follow: whole
Cut = tuple[range, ...]  # the same, resolved: one range for every dimension


class Shard(NamedTuple):
    """The rank-th of `world` equal parts along `dim`."""

    dim: int
    rank: int
    world: int

    def part(self, name: str, shape: tuple[int, ...]) -> Part:
        """The part of a tensor of this whole shape. Raises CheckpointError naming the tensor if it does not divide."""
        if not 0 <= self.dim < len(shape):
            raise CheckpointError(f"Tensor {name!r} {list(shape)} has no dimension {self.dim} to split.")
        size = shape[self.dim]
        if size % self.world:
            raise CheckpointError(
                f"Tensor {name!r} {list(shape)} cannot be split into {self.world} equal parts along dimension {self.dim}. "
                f"Use a number of ranks that divides {size}."
            )
        return (*(None,) * self.dim, even(size, self.rank, self.world))


def even(size: int, rank: int, world: int, *, block: int = 0, blocks: int = 1) -> tuple[int, int]:
    """The rank-th of `world` equal parts of the block-th of `blocks` equal blocks of a dimension.

    Raises CheckpointError if the sizes do not divide.
    """
    if size % (blocks * world):
        inside = f"{blocks} blocks of " if blocks > 1 else ""
        raise CheckpointError(
            f"A dimension of {size} cannot be split into {inside}{world} equal parts. Use another number of ranks."
        )
    length = size // (blocks * world)
    start = (block * world + rank) * length
    return start, start + length


def strided(size: int, rank: int, world: int, *, offset: int, step: int) -> tuple[int, int, int]:
    """The rank's equal part of the indices offset, offset + step, ... of a dimension (gpt-oss interleaves gate and up).

    Raises CheckpointError if the sizes do not divide.
    """
    if size % (step * world):
        raise CheckpointError(
            f"{step} interleaved parts of {size} cannot be split into {world} equal parts. Use another number of ranks."
        )
    start, stop = even(size, rank, world)
    return start + offset, stop, step


def head_rows(heads: int, head_dim: int, rank: int, world: int) -> tuple[int, int]:
    """Rows of the heads that a rank owns; with fewer heads than ranks, neighbouring ranks hold copies of one head.

    Raises CheckpointError if neither number divides the other.
    """
    if heads % world and world % heads:
        raise CheckpointError(
            f"{heads} heads can neither be split over nor repeated on {world} ranks. Use another number of ranks."
        )
    first = rank * heads // world
    return first * head_dim, (first + max(1, heads // world)) * head_dim


def resolve(name: str, shape: tuple[int, ...], part: Part) -> Cut:
    """A range for every dimension of a tensor. Raises CheckpointError naming the tensor for a span that is not inside it."""
    if len(part) > len(shape):
        raise CheckpointError(f"Tensor {name!r} {list(shape)} cannot be cut along {len(part)} dimensions.")
    cut = [range(size) for size in shape]
    for dim, span in enumerate(part):
        if span is None:
            continue
        start, stop, step = (*span, 1)[:3]
        if not 0 <= start <= stop <= shape[dim] or step < 1:
            raise CheckpointError(f"Tensor {name!r} {list(shape)} has no part {span} along dimension {dim}.")
        cut[dim] = range(start, stop, step)
    return tuple(cut)
