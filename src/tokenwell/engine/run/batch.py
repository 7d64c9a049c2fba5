"""Device tensors of one step, from the rows' state. One function a tensor; prefill and decode are the same code.

Rows are ordered so that those with one token come first, the shortest context first: backends may treat that front as a
block. Nothing here knows of models, sampling or the scheduler's reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tokenwell.engine.attention.spec import LayerCache
from tokenwell.engine.run.rows import Row
from tokenwell.engine.schedule.plan import RunRow


@dataclass(frozen=True, slots=True)
class Span:
    """One row's share of the batch: tokens [offset, offset + count) are its positions [start, start + count)."""

    offset: int
    start: int
    count: int

    @property
    def length(self) -> int:
        """Tokens of the row in the cache once this step is written."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """What one KV group adds to a batch."""

    page_tokens: int
    table: torch.Tensor  # [rows, pages] int64; entries behind a window are stale
    slots: tuple[torch.Tensor, torch.Tensor]  # page and offset in it, each [tokens] int64: where new keys go


@dataclass(slots=True)
class Batch:
    """The tensors of one forward pass."""

    ids: torch.Tensor  # [tokens] int64
    positions: torch.Tensor  # [tokens] int64
    spans: tuple[Span, ...]  # one a row
    groups: tuple[GroupBatch, ...]
    caches: Sequence[LayerCache]  # by layer index; sharing layers use their owner's
    keep: torch.Tensor  # [kept] int64: the tokens whose hidden states are wanted, ascending
    keep_all: bool  # every token is kept
    keep_spans: tuple[Span, ...]  # the spans of the kept tokens alone: tails of some of `spans`
    keep_rows: tuple[int, ...]  # which rows those are
    scratch: dict[Any, Any] = field(default_factory=dict)  # what backends and models prepare once a step

    @property
    def singles(self) -> int:
        """Rows with one token: the first ones, shortest context first."""
        return sum(span.count == 1 for span in self.spans)

    def kept(self) -> Batch:
        """The batch of the kept tokens alone, for layers that write no keys of their own; made once."""
        if self.keep_all:
            return self
        if "kept" not in self.scratch:
            self.scratch["kept"] = self._narrow()
        narrowed: Batch = self.scratch["kept"]
        return narrowed

    def _narrow(self) -> Batch:
        rows = torch.tensor(self.keep_rows, dtype=torch.int64, device=self.ids.device)
        groups = tuple(
            GroupBatch(group.page_tokens, group.table[rows], (group.slots[0][self.keep], group.slots[1][self.keep]))
            for group in self.groups
        )
        count = len(self.keep)
        return Batch(
            ids=self.ids[self.keep], positions=self.positions[self.keep], spans=self.keep_spans, groups=groups,
            caches=self.caches, keep=torch.arange(count, device=self.ids.device), keep_all=True,
            keep_spans=self.keep_spans, keep_rows=tuple(range(len(self.keep_spans))),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """One row of a step: compute `count` tokens from `start`; the hidden states of the last `keep` of them are wanted."""

    row: Row
    start: int
    count: int
    keep: int


def order(runs: Sequence[RunRow]) -> list[RunRow]:
    """Single tokens first, shortest context first; the others as they came."""
    return sorted(runs, key=lambda run: (run.count > 1, run.start if run.count == 1 else 0))


def build(work: Sequence[Work], page_tokens: Sequence[int], caches: Sequence[LayerCache], device: torch.device) -> Batch:
    """The batch of `work`, in the order that `order` gives; `page_tokens` is one figure a group."""
    spans = spans_of(work)
    keep, keep_spans, keep_rows = keep_of(work, spans)
    positions = positions_of(spans)
    groups = tuple(
        GroupBatch(
            size,
            torch.from_numpy(table_of(work, spans, group, size)).to(device),
            slots_of(work, spans, positions, group, size, device),
        )
        for group, size in enumerate(page_tokens)
    )
    return Batch(
        ids=torch.from_numpy(ids_of(work)).to(device), positions=torch.from_numpy(positions).to(device), spans=spans,
        groups=groups, caches=caches, keep=torch.from_numpy(keep).to(device), keep_all=len(keep) == len(positions),
        keep_spans=keep_spans, keep_rows=keep_rows,
    )  # fmt: skip


def spans_of(work: Sequence[Work]) -> tuple[Span, ...]:
    """Where each row lies in the batch."""
    spans, offset = [], 0
    for item in work:
        spans.append(Span(offset, item.start, item.count))
        offset += item.count
    return tuple(spans)


def ids_of(work: Sequence[Work]) -> np.ndarray:
    """[tokens] token ids."""
    ids: list[int] = []
    for item in work:
        ids += item.row.tokens[item.start : item.start + item.count]
    return np.array(ids, dtype=np.int64)


def positions_of(spans: Sequence[Span]) -> np.ndarray:
    """[tokens] position of each token in its row."""
    return np.concatenate([np.arange(span.start, span.length, dtype=np.int64) for span in spans])


def table_of(work: Sequence[Work], spans: Sequence[Span], group: int, page_tokens: int) -> np.ndarray:
    """[rows, pages] page tables of one group, as wide as the longest row needs; what lies beyond a row is the null page."""
    width = max(-(-span.length // page_tokens) for span in spans)
    table = np.zeros((len(work), width), dtype=np.int64)
    for index, item in enumerate(work):
        pages = item.row.tables[group].pages[:width]
        table[index, : len(pages)] = pages
    return table


def slots_of(
    work: Sequence[Work], spans: Sequence[Span], positions: np.ndarray, group: int, page_tokens: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Page and offset in it of every token, each [tokens]."""
    pages = np.empty_like(positions)
    for item, span in zip(work, spans, strict=True):
        table = item.row.tables[group].pages
        if span.count == 1:
            pages[span.offset] = table[span.start // page_tokens]
        else:
            first = span.start // page_tokens
            here = positions[span.offset : span.offset + span.count] // page_tokens - first
            pages[span.offset : span.offset + span.count] = table[first:][here]
    return torch.from_numpy(pages).to(device), torch.from_numpy(positions % page_tokens).to(device)


def keep_of(work: Sequence[Work], spans: Sequence[Span]) -> tuple[np.ndarray, tuple[Span, ...], tuple[int, ...]]:
    """Indices of the kept tokens [kept], their spans among themselves, and the rows they belong to."""
    pieces, kept, rows, offset = [np.empty(0, dtype=np.int64)], [], [], 0
    for index, (item, span) in enumerate(zip(work, spans, strict=True)):
        if item.keep == 0:
            continue
        end = span.offset + span.count
        pieces.append(np.arange(end - item.keep, end, dtype=np.int64))
        kept.append(Span(offset, span.length - item.keep, item.keep))
        rows.append(index)
        offset += item.keep
    return np.concatenate(pieces), tuple(kept), tuple(rows)
