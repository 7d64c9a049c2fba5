"""Page tables and tries where the scheduler's tests reach them only by luck."""

from __future__ import annotations

from array import array

from tests.engine.schedule.device import group

from tokenwell.engine.schedule.blocks import Blocks
from tokenwell.engine.schedule.sequence import Sequence
from tokenwell.wire.sampling import Sampling


def _sequence(arrival: int, tokens: list[int]) -> Sequence:
    return Sequence(f"r{arrival}", Sampling(), arrival, array("I", tokens), len(tokens), limit=100)


def _compute(blocks: Blocks, seq: Sequence, count: int) -> None:
    """The next `count` tokens: pages, then the step's end."""
    assert blocks.affordable(seq, count) == count
    blocks.grow(seq, count)
    seq.computed += count
    if seq.computed >= seq.mark:
        blocks.advance(seq)


def test_a_sequence_whose_last_full_page_was_evicted_leaves_no_node() -> None:
    blocks = Blocks((group(4, 1),), num_pages=3, step_tokens=8, prefix_cache=True)
    first, second = _sequence(0, [1] * 9), _sequence(1, [2] * 9)
    for seq in (first, second):
        assert blocks.admit(seq, blocks.find(seq)) == []
    _compute(blocks, first, 4)  # its page is behind the window at once
    _compute(blocks, second, 7)  # needs both pages
    blocks.check([first, second])
    blocks.release(first)
    blocks.check([second])
    blocks.release(second)
    blocks.check([])


def test_the_page_of_a_twin_is_offered_when_the_first_one_is_evicted() -> None:
    blocks = Blocks((group(4),), num_pages=5, step_tokens=8, prefix_cache=True)
    first, twin, other = _sequence(0, [1] * 9), _sequence(1, [1] * 9), _sequence(2, [2] * 9)
    for seq in (first, twin, other):
        blocks.admit(seq, blocks.find(seq))
    _compute(blocks, first, 4)
    _compute(blocks, twin, 8)
    blocks.release(first)
    assert blocks.affordable(other, 8) == 8  # the one free page and the one that `first` left
    _compute(blocks, other, 8)
    blocks.release(other)
    blocks.check([twin])
    blocks.release(twin)
    blocks.check([])
    assert blocks.find(_sequence(3, [1] * 9)).tokens == 8


def test_pages_are_affordable_up_to_the_last_one() -> None:
    blocks = Blocks((group(4), group(2)), num_pages=6, step_tokens=8, prefix_cache=True)
    seq = _sequence(0, [1] * 20)
    blocks.admit(seq, blocks.find(seq))
    assert blocks.affordable(seq, 20) == 6  # 2 + 3 pages; a seventh token needs one more
    _compute(blocks, seq, 6)
    assert blocks.affordable(seq, 5) == 0
