"""What torch's caching allocator counts as allocated once a list of parameters has been made.

Source: c10/cuda/CUDACachingAllocator.cpp (the XPU one has the same constants). Requests are rounded up to 512 B. Those of at
most 1 MiB are cut from segments of 2 MiB; larger ones from segments of 20 MiB or, from 10 MiB on, of their own size rounded up
to 2 MiB. The smallest free block that is large enough is taken; what is left of it becomes a block of its own if it is at least
512 B (small) or more than 1 MiB (large), and otherwise counts as the request's. Freed neighbours of a segment become one.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

_ROUND = 512
_SMALL = 1 << 20
_SMALL_SEGMENT = 2 << 20
_LARGE_SEGMENT = 20 << 20
_OWN_SEGMENT = 10 << 20
_OWN_ROUND = 2 << 20

_Block = tuple[int, int]  # where it starts, bytes


@dataclass(frozen=True, slots=True)
class Made:
    """Something that is allocated in several forms, each before the one before it is freed, so that the last one stays.

    A matrix that is quantised while it is loaded has two: what was loaded, and the codes.
    """

    forms: tuple[int, ...]  # bytes
    begins: int = 0  # when the first form is allocated; orders all that is made
    ends: int = 0  # when the others are


def allocated(things: Iterable[Made]) -> int:
    """Bytes counted when all is made."""
    memory = _Memory()
    moments: list[tuple[int, int, Made]] = []
    for thing in things:
        moments.append((thing.begins, len(moments), thing))
        if len(thing.forms) > 1:
            moments.append((thing.ends, len(moments), thing))
    first: dict[int, _Block] = {}
    for _, _, thing in sorted(moments, key=lambda moment: moment[:2]):
        if id(thing) not in first:
            first[id(thing)] = memory.take(thing.forms[0])
            continue
        last = first[id(thing)]
        for size in thing.forms[1:]:
            block = memory.take(size)
            memory.give(last)
            last = block
    return memory.counted


class _Memory:
    """Blocks by their start and length; addresses of segments lie so far apart that they never touch."""

    def __init__(self) -> None:
        self.counted = 0
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # (bytes, start), sorted; by "small"
        self._starts: dict[int, int] = {}  # start of a free block -> its bytes
        self._ends: dict[int, int] = {}  # end of a free block -> its bytes
        self._top = 0

    def take(self, size: int) -> _Block:
        wanted = -(-max(size, 1) // _ROUND) * _ROUND
        small = wanted <= _SMALL
        free = self._free[small]
        place = bisect_left(free, (wanted, -1))
        if place < len(free):
            length, start = free[place]
            self._remove(small, start, length)
        else:
            start, length = self._top, _segment(wanted)
            self._top += length + _ROUND
        rest = length - wanted
        if rest >= _ROUND if small else rest > _SMALL:
            self._insert(small, start + wanted, rest)
            length = wanted
        self.counted += length
        return start, length

    def give(self, block: _Block) -> None:
        start, length = block
        self.counted -= length
        # Small and large blocks never share a segment, and only requests of at most 1 MiB are small.
        small = length <= _SMALL
        if (after := self._starts.get(start + length)) is not None:
            self._remove(small, start + length, after)
            length += after
        if (before := self._ends.get(start)) is not None:
            self._remove(small, start - before, before)
            start, length = start - before, length + before
        self._insert(small, start, length)

    def _insert(self, small: bool, start: int, length: int) -> None:
        insort(self._free[small], (length, start))
        self._starts[start] = self._ends[start + length] = length

    def _remove(self, small: bool, start: int, length: int) -> None:
        free = self._free[small]
        free.pop(bisect_left(free, (length, start)))
        del self._starts[start], self._ends[start + length]


def _segment(wanted: int) -> int:
    if wanted <= _SMALL:
        return _SMALL_SEGMENT
    if wanted < _OWN_SEGMENT:
        return _LARGE_SEGMENT
    return -(-wanted // _OWN_ROUND) * _OWN_ROUND
