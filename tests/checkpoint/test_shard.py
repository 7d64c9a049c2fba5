"""Parts of dimensions: for every rank they lie inside, and together they make the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.checkpoint.shard import Shard, Span, even, head_rows, resolve, strided
from tokenwell.wire.errors import CheckpointError

_SMALL = st.integers(1, 5)


def indices(span: Span) -> list[int]:
    return list(range(*span))


@given(length=_SMALL, world=_SMALL, blocks=_SMALL)
def test_even_parts_of_all_blocks_and_ranks_are_the_whole(length: int, world: int, blocks: int) -> None:
    size = length * world * blocks
    parts = [indices(even(size, rank, world, block=block, blocks=blocks)) for block in range(blocks) for rank in range(world)]
    assert sum(parts, []) == list(range(size))  # noqa: RUF017  # short lists
    assert {len(part) for part in parts} == {length}


@given(length=_SMALL, world=_SMALL, step=_SMALL)
def test_strided_parts_are_the_whole_and_keep_their_residue(length: int, world: int, step: int) -> None:
    size = length * world * step
    parts = {
        (rank, offset): indices(strided(size, rank, world, offset=offset, step=step))
        for rank in range(world)
        for offset in range(step)
    }
    assert sorted(index for part in parts.values() for index in part) == list(range(size))
    assert all(index % step == offset for (_, offset), part in parts.items() for index in part)
    # A rank's pairs stay together: its gate i and its up i are neighbours in the stored tensor.
    for rank in range(world):
        lows = [parts[rank, offset][0] - offset for offset in range(step)]
        assert len(set(lows)) == 1


@given(heads=_SMALL, factor=_SMALL, head_dim=_SMALL)
def test_heads_are_split_over_fewer_ranks(heads: int, factor: int, head_dim: int) -> None:
    rows = [row for rank in range(heads) for row in indices(head_rows(heads * factor, head_dim, rank, heads))]
    assert rows == list(range(heads * factor * head_dim))


@given(heads=_SMALL, factor=_SMALL, head_dim=_SMALL)
def test_heads_are_repeated_on_more_ranks(heads: int, factor: int, head_dim: int) -> None:
    world = heads * factor
    for rank in range(world):
        head = rank // factor  # the same head whose queries the rank owns
        assert indices(head_rows(heads, head_dim, rank, world)) == list(range(head * head_dim, (head + 1) * head_dim))


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(CheckpointError, match="7 cannot be split into 2 equal parts"):
        even(7, 0, 2)
    with pytest.raises(CheckpointError, match="2 blocks of 3 equal parts"):
        even(8, 0, 3, block=1, blocks=2)
    with pytest.raises(CheckpointError, match="2 interleaved parts of 6"):
        strided(6, 0, 2, offset=1, step=2)
    with pytest.raises(CheckpointError, match="6 heads"):
        head_rows(6, 64, 0, 4)
    with pytest.raises(CheckpointError, match=r"'w' \[3, 5\].*2 equal parts along dimension 1.*divides 5"):
        Shard(1, 0, 2).part("w", (3, 5))
    with pytest.raises(CheckpointError, match=r"'w' \[3\] has no dimension 1"):
        Shard(1, 0, 2).part("w", (3,))


def test_resolve_fills_in_whole_dimensions() -> None:
    assert resolve("w", (4, 6, 8), (None, (1, 5, 2))) == (range(4), range(1, 5, 2), range(8))
    assert resolve("w", (), ()) == ()


@pytest.mark.parametrize("part", [((0, 5),), ((-1, 2),), ((3, 2),), ((0, 4, 0),), ((0, 4, -1),), (None, (0, 1))])
def test_resolve_refuses_spans_outside(part: tuple[Span | None, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"'w' \[4\]"):
        resolve("w", (4,), part)
