"""Attention of rows with many tokens: all keys and values that they see are gathered from their pages first.

Plain tensors save every tile the page table, widening of 8-bit numbers and rebuilding of folded keys, and blocks of them are
copied by hardware where it can. Rows of few tokens behind a long prefix read the cache where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.platform.accelerator import uploads
from tokenwell.engine.run.batch import Batch, Span

_LEAST_PAIRS = 1 << 17  # of queries and keys; below, two kernels instead of one cost more than they save
_MOST_KEYS_A_TOKEN = 256  # gathering costs as much as reading a few times
_SCRATCH_BYTES = 96 << 20  # for gathered keys and values: of as many heads at a time as fit
_MOST_BYTES = 4 * _SCRATCH_BYTES  # of one head, where they do not fit


@dataclass(frozen=True)
class Plan:
    """What is gathered and how the queries are cut, the same for all layers with one window."""

    keys: int  # gathered
    pieces: torch.Tensor  # [pieces, 4] int32, as paged_gather wants them
    tiles: torch.Tensor  # [tiles, 4] int32, as dense_prefill wants them


def pays(spec: AttentionSpec, batch: Batch) -> bool:
    """Whether the rows behind the single tokens are worth gathering."""
    if len(batch.spans) != batch.rows:  # in graphs the host does not know where rows lie
        return False
    spans = batch.spans[batch.singles :]
    tokens = sum(span.count for span in spans)
    keys = [span.length - _oldest(spec, span) for span in spans]
    if sum(keys) > tokens * _MOST_KEYS_A_TOKEN or sum(keys) * _key_bytes(spec) > _MOST_BYTES:
        return False
    return sum(span.count * seen for span, seen in zip(spans, keys, strict=True)) >= _LEAST_PAIRS


def attend_dense(
    spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None,
    out: torch.Tensor,
) -> None:  # fmt: skip
    """The rows behind the single tokens into `out`, which like q is [tokens, heads, head_dim]."""
    from tokenwell.engine.kernels.dense_prefill import dense_prefill, tiling_for
    from tokenwell.engine.kernels.paged_gather import paged_gather
    from tokenwell.engine.kernels.tiling import room_bytes

    tiling = tiling_for(spec, room_bytes(q.device))
    span_tokens = tiling.tile * spec.kv_heads // spec.heads
    key = ("dense", spec.window, span_tokens)
    plan = batch.scratch.get(key)
    if plan is None:
        plan = batch.scratch[key] = plan_for(spec, batch, span_tokens)
    where, each = batch.groups[group], spec.heads // spec.kv_heads
    several = min(spec.kv_heads, max(1, _SCRATCH_BYTES // (plan.keys * _key_bytes(spec))))
    for first in range(0, spec.kv_heads, several):
        kv = slice(first, min(first + several, spec.kv_heads))
        heads = slice(kv.start * each, kv.stop * each)
        part = replace(cache, k=cache.k[:, :, kv], v=cache.v[:, :, kv])
        k, v = paged_gather(part, where.table, where.page_tokens, plan.pieces, q.dtype)
        some = replace(spec, heads=heads.stop - heads.start, kv_heads=kv.stop - kv.start)
        dense_prefill(some, q[:, heads], k, v, plan.tiles, None if sinks is None else sinks[heads], out[:, heads], tiling)


def plan_for(spec: AttentionSpec, batch: Batch, span_tokens: int) -> Plan:
    """The plan of a batch, in tiles of `span_tokens` tokens."""
    from tokenwell.engine.kernels.paged_gather import PIECE

    pieces, tiles, gathered = [], [], 0
    for span in batch.spans[batch.singles :]:
        oldest = _oldest(spec, span)
        begin = oldest // PIECE * PIECE
        first = np.arange(begin, span.length, PIECE, dtype=np.int32)
        pieces.append(_columns(np.full_like(first, span.slot), first, oldest, span.length))
        past = np.arange(0, span.count, span_tokens, dtype=np.int32)
        tiles.append(
            _columns(span.offset + past, np.minimum(span_tokens, span.count - past), span.start + past, gathered - begin)
        )
        gathered += len(first) * PIECE
    cut = np.concatenate(tiles)
    if spec.window is None:  # those with most keys are started first
        cut = cut[np.argsort(-cut[:, 2], kind="stable")]
    return Plan(gathered, *uploads([np.concatenate(pieces), cut], batch.slots.device))


def _oldest(spec: AttentionSpec, span: Span) -> int:
    """The first position that a query of the step sees."""
    return 0 if spec.window is None else max(0, span.start - spec.window + 1)


def _key_bytes(spec: AttentionSpec) -> int:
    """Of one key and its value, of one head."""
    return 2 * spec.head_dim * spec.dtype.itemsize


def _columns(first: np.ndarray, *others: np.ndarray | int) -> np.ndarray:
    """[rows, columns] int32 of arrays [rows] and numbers."""
    return np.stack([first, *(np.broadcast_to(other, first.shape) for other in others)], axis=1).astype(np.int32)
