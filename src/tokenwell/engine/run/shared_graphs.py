"""Decode steps whose rows share pages, recorded: attention reads those once for all of them.

Rows are filled in as `graphs` does, and beside them which of them share what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from tokenwell.engine.attention.spec import Shared
from tokenwell.engine.platform.accelerator import packed_bytes, refresh, unpack
from tokenwell.engine.run.batch import Work
from tokenwell.engine.run.graphs import DecodeGraphs
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.run.shared import SharedPages
from tokenwell.engine.run.spare import SpareRecordings


class Sharing(NamedTuple):
    """So many rows of one token."""

    rows: int

    def __str__(self) -> str:
        return f"{self.rows} rows that share pages"


class SharedGraphs:
    """Recordings by batch size, in spare memory."""

    what = "steps of rows that share pages"

    def __init__(self, decode: DecodeGraphs, pages: SharedPages, planned_bytes: Callable[[], int], ranks: Ranks) -> None:
        """The recordings of `decode` are for the same rows; the rest is `SpareRecordings`'s."""
        self._decode = decode
        self._pages = pages
        self._nothing = pages.arrays(decode.sizes[-1])
        self._inputs = torch.zeros(packed_bytes(self._nothing), dtype=torch.uint8, device=decode.device)
        self._filled: list[np.ndarray] | None = None
        self._recordings = SpareRecordings(self._pad, self._step, decode.device, decode, planned_bytes, ranks)

    @property
    def made(self) -> list[int]:
        """The recorded sizes."""
        return [shape.rows for shape in self._recordings.made]

    def has(self, work: Sequence[Work]) -> bool:
        """Whether the size for `work` is recorded."""
        return self._decode.size_for(len(work)) in self.made

    def run(self, work: Sequence[Work]) -> torch.Tensor | None:
        """As `DecodeGraphs.run`; None where nothing worth it is shared, or what is cannot be recorded."""
        if len(work) < 2:
            return None
        found = self._pages.find(work)
        if found is None:
            return None
        recording = self._recordings.get(Sharing(self._decode.size_for(len(work))))
        if recording is None:
            return None
        self._decode.fill(work)
        self._fill(found)
        recording.replay()
        return recording.output[: len(work)]

    def record_next(self) -> bool:
        """Try to record a size that is not recorded yet, the smallest first; False if there is none."""
        sizes = (Sharing(size) for size in self._decode.sizes if size > 1)
        shape = next(filter(self._recordings.is_open, sizes), None)
        if shape is None:
            return False
        self._recordings.record(shape)
        return True

    def _pad(self, shape: Sharing) -> None:
        self._decode.fill(())
        self._fill(self._nothing)

    def _fill(self, found: list[np.ndarray]) -> None:
        if found is self._filled:
            return
        keys, members, sets = (array.copy() for array in self._nothing)
        keys[: len(found[0])], members[: len(found[1])], sets[:] = found
        refresh([keys, members, sets], self._inputs)
        self._filled = found

    def _step(self, shape: Sharing) -> torch.Tensor:
        keys, members, sets = unpack(self._nothing, self._inputs)
        return self._decode.step(shape.rows, Shared(self._pages.group, keys[: shape.rows], members[: shape.rows], sets))
