"""Device tensors of one step, from the rows' state. One function a tensor; prefill and decode are the same code.

Rows are ordered so that those with one token come first, the shortest context first: backends may treat that front as a
block. Nothing here knows of models, sampling or the scheduler's reasons.

    row       0       1       2              the rows' places in the page tables: slots [rows]
    tokens   | a     | b     | c  d  e  f |  row r's tokens are starts[r] .. starts[r + 1]
    length     900     40      104           tokens of the row in the cache once the step is written: lengths [rows]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tokenwell.engine.attention.spec import LayerCache, Shared
from tokenwell.engine.platform.accelerator import uploads
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.tables import PageTables
from tokenwell.engine.schedule.plan import RunRow

UNKNOWN = -1  # the id of a token that the step before samples; only the device knows it


@dataclass(frozen=True, slots=True)
class Span:
    """One row's share of the batch: tokens [offset, offset + count) are its positions [start, start + count)."""

    slot: int  # its place in the page tables
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
    table: torch.Tensor  # [slots, pages] int32, of all rows there are; entries behind a window or a row's end are stale


@dataclass(slots=True)
class Batch:
    """The tensors of one forward pass."""

    ids: torch.Tensor  # [tokens] int64
    positions: torch.Tensor  # [tokens] int64
    slots: torch.Tensor  # [rows] int32
    starts: torch.Tensor  # [rows + 1] int32
    lengths: torch.Tensor  # [rows] int32
    token_rows: torch.Tensor  # [tokens] int32: which row a token is of
    singles: int  # leading rows that have one token, shortest context first
    longest: int  # no row is longer
    most: int  # no row has more tokens in this step
    spans: tuple[Span, ...]  # one a row; empty where a graph is recorded, whose rows differ from replay to replay
    groups: tuple[GroupBatch, ...]
    caches: Sequence[LayerCache]  # by layer index; sharing layers use their owner's
    keep: torch.Tensor  # [kept] int64: the tokens whose hidden states are wanted, ascending
    keep_all: bool  # every token is kept
    tail: Batch | None = None  # the batch of the kept tokens alone; None when all are kept
    shared: Shared | None = None  # None: rows are served one by one
    scratch: dict[Any, Any] = field(default_factory=dict)  # what backends and models prepare once a step

    @property
    def rows(self) -> int:
        """How many rows there are, those that fill up a graph included."""
        return len(self.slots)

    def kept(self) -> Batch:
        """The batch of the kept tokens alone, for layers that write no keys of their own."""
        return self if self.tail is None else self.tail

    def places(self, group: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Page and offset in it of every token in one KV group, each [tokens] int64: where new keys go."""
        key = ("places", group)
        found = self.scratch.get(key)
        if found is None:
            one = self.groups[group]
            rows = self.slots.index_select(0, self.token_rows).to(torch.int64)
            pages = one.table[rows, self.positions // one.page_tokens].to(torch.int64)
            found = self.scratch[key] = (pages, self.positions % one.page_tokens)
        pages, offsets = found
        return pages, offsets


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


def build(
    work: Sequence[Work], groups: tuple[GroupBatch, ...], caches: Sequence[LayerCache], tables: PageTables,
    last_tokens: torch.Tensor,
) -> Batch:  # fmt: skip
    """The batch of `work`, in the order that `order` gives. `last_tokens` [slots] holds on the device what was sampled last."""
    device = last_tokens.device
    spans = spans_of(work)
    keep, tail = keep_of(work, spans)
    ids, positions = ids_of(work), positions_of(spans)
    arrays = [ids, positions, *_shape_of(spans)]
    keep_all = len(keep) == len(positions)
    if not keep_all:
        arrays += [keep, *_shape_of(tail)]
    tensors = uploads(arrays, device)
    batch = _batch(tensors[0], tensors[1], spans, tensors[2:6], groups, caches)
    if (ids == UNKNOWN).any():
        sampled = last_tokens[batch.slots.index_select(0, batch.token_rows).to(torch.int64)]
        batch.ids = torch.where(batch.ids == UNKNOWN, sampled, batch.ids)
    if device.type == "cpu":  # cheaper by rows than by tokens on tensors
        for group, one in enumerate(groups):
            batch.scratch["places", group] = places_of(spans, positions, tables.host[group], one.page_tokens)
    if not keep_all:
        batch.keep, batch.keep_all = tensors[6], False
        batch.tail = _batch(batch.ids[batch.keep], batch.positions[batch.keep], tail, tensors[7:11], groups, caches)
    return batch


def _batch(
    ids: torch.Tensor, positions: torch.Tensor, spans: tuple[Span, ...], shape: Sequence[torch.Tensor],
    groups: tuple[GroupBatch, ...], caches: Sequence[LayerCache],
) -> Batch:  # fmt: skip
    """A batch that keeps every token."""
    slots, starts, lengths, token_rows = shape
    return Batch(
        ids=ids, positions=positions, slots=slots, starts=starts, lengths=lengths, token_rows=token_rows,
        singles=singles_of(spans), longest=max((span.length for span in spans), default=0),
        most=max((span.count for span in spans), default=0), spans=spans, groups=groups, caches=caches,
        keep=torch.arange(len(ids), device=ids.device), keep_all=True,
    )  # fmt: skip


def _shape_of(spans: Sequence[Span]) -> list[np.ndarray]:
    """slots [rows], starts [rows + 1], lengths [rows] and token_rows [tokens], all int32."""
    counts = [span.count for span in spans]
    return [
        np.array([span.slot for span in spans], dtype=np.int32),
        np.cumsum([0, *counts], dtype=np.int32),
        np.array([span.length for span in spans], dtype=np.int32),
        np.repeat(np.arange(len(counts), dtype=np.int32), counts),
    ]


def spans_of(work: Sequence[Work]) -> tuple[Span, ...]:
    """Where each row lies in the batch."""
    spans, offset = [], 0
    for item in work:
        spans.append(Span(item.row.slot, offset, item.start, item.count))
        offset += item.count
    return tuple(spans)


def singles_of(spans: Sequence[Span]) -> int:
    """How many rows at the front have one token."""
    for row, span in enumerate(spans):
        if span.count != 1:
            return row
    return len(spans)


def ids_of(work: Sequence[Work]) -> np.ndarray:
    """[tokens] int64 token ids, UNKNOWN where only the device knows."""
    ids: list[int] = []
    for item in work:
        known = item.row.tokens[item.start : item.start + item.count]
        ids += known if len(known) == item.count else [*known, *[UNKNOWN] * (item.count - len(known))]
    return np.array(ids, dtype=np.int64)


def positions_of(spans: Sequence[Span]) -> np.ndarray:
    """[tokens] int64 position of each token in its row."""
    return np.concatenate([np.arange(span.start, span.length, dtype=np.int64) for span in spans])


def places_of(
    spans: Sequence[Span], positions: np.ndarray, table: np.ndarray, page_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch.places on the CPU, from the table [slots, pages] of one group."""
    pages = np.empty_like(positions)
    for span in spans:
        if span.count == 1:
            pages[span.offset] = table[span.slot, span.start // page_tokens]
        else:
            here = positions[span.offset : span.offset + span.count] // page_tokens
            pages[span.offset : span.offset + span.count] = table[span.slot][here]
    return torch.from_numpy(pages), torch.from_numpy(positions % page_tokens)


def keep_of(work: Sequence[Work], spans: Sequence[Span]) -> tuple[np.ndarray, tuple[Span, ...]]:
    """Indices of the kept tokens [kept] int64, and the spans of the rows that keep some, among the kept tokens alone."""
    pieces, kept, offset = [np.empty(0, dtype=np.int64)], [], 0
    for item, span in zip(work, spans, strict=True):
        if item.keep == 0:
            continue
        end = span.offset + span.count
        pieces.append(np.arange(end - item.keep, end, dtype=np.int64))
        kept.append(Span(span.slot, offset, span.length - item.keep, item.keep))
        offset += item.keep
    return np.concatenate(pieces), tuple(kept)
