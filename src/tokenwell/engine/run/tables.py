"""Which page holds which tokens of every slot: one table a KV group, kept on the device and brought up to date by differences.

Slots are those of the plans, and one more for the rows that fill up a graph: its entries stay the null page. Entries behind a
row's own are stale, as are those that have left a window; nobody reads either. Rows start at aligned addresses whatever the
window is: kernels are compiled for that once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tokenwell.engine.platform.accelerator import uploads
from tokenwell.wire.cache import KvGroup, pages_for

_ALIGNED_PAGES = 16


class PageTables:
    """The page tables of all slots in all groups."""

    def __init__(self, groups: Sequence[KvGroup], slots: int, max_model_len: int, device: torch.device) -> None:
        self.padding_slot = slots
        widths = [-(-pages_for(max_model_len, group) // _ALIGNED_PAGES) * _ALIGNED_PAGES for group in groups]
        bounds = np.cumsum([0, *((slots + 1) * width for width in widths)])
        self._host = np.zeros(bounds[-1], dtype=np.int32)
        # On the CPU both are the same memory.
        self._device = torch.from_numpy(self._host) if device.type == "cpu" else torch.zeros(len(self._host), dtype=torch.int32)
        self._device = self._device.to(device)
        self._widths = widths
        self._offsets = bounds[:-1].tolist()
        pieces = list(zip(bounds[:-1], bounds[1:], widths, strict=True))
        self.host = tuple(self._host[low:high].reshape(slots + 1, width) for low, high, width in pieces)
        self.tables = tuple(self._device[low:high].view(slots + 1, width) for low, high, width in pieces)  # [slots, pages] int32
        self._counts = np.zeros((len(groups), slots + 1), dtype=np.int64)
        self.placed = 0  # rows so far: as long as it stays, slots have the rows that they had
        self._changed: list[np.ndarray] | None = None if device.type == "cpu" else []  # flat places; None: nobody asks

    def place(self, slot: int, pages: Sequence[Sequence[int]]) -> None:
        """A new row in `slot`: its pages so far, one list a group."""
        self._counts[:, slot] = 0
        self.placed += 1
        self.append(slot, pages)

    def append(self, slot: int, pages: Sequence[Sequence[int]]) -> None:
        """More pages of the row in `slot`, one list a group."""
        for group, new in enumerate(pages):
            if not new:
                continue
            start = self._counts[group, slot]
            end = start + len(new)
            self.host[group][slot, start:end] = new
            self._counts[group, slot] = end
            if self._changed is not None:
                first = self._offsets[group] + slot * self._widths[group]
                self._changed.append(np.arange(first + start, first + end, dtype=np.int64))

    def flush(self) -> None:
        """Bring the device's copy up to date, in the order of the device's work."""
        if not self._changed:
            return
        places = np.concatenate(self._changed)
        where, pages = uploads([places, self._host[places]], self._device.device)
        self._device.index_copy_(0, where, pages)
        self._changed.clear()
