"""Attention through torch's fused scaled_dot_product_attention on gathered pages.

Rows that decode are gathered together, in buckets of similar length so that a long row does not pad the short ones; the
queries that share a key head are packed as if they were several positions, so each key is read once. Rows that prefill
are done one by one. Sinks use the log-sum-exp that the CPU kernel returns: out * 1 / (1 + exp(sink - lse)).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.run.batch import Batch, GroupBatch, Span
from tokenwell.wire.cache import first_live_page

_BLOCK = 128  # queries of a row that prefills which are attended at once


@dataclass(frozen=True)
class _Decode:
    """Rows [first, last) of the batch, one query each."""

    first: int
    last: int
    pages: torch.Tensor  # [rows * width] page ids
    width: int  # pages a row
    mask: torch.Tensor | None  # [rows, 1, 1, width * page_tokens] added to the scores; None: everything is seen
    skip: int  # keys before the first visible one (single rows only)
    keys: int  # visible keys (single rows only)


@dataclass(frozen=True)
class _Block:
    """Queries [first, last) of a row that prefills; they see keys [low, high) of the gathered ones as `mask` says."""

    first: int
    last: int
    low: int
    high: int
    mask: torch.Tensor  # [1, 1, last - first, high - low], added to the scores


@dataclass(frozen=True)
class _Prefill:
    """One row with several queries."""

    offset: int
    pages: torch.Tensor  # [pages]
    blocks: tuple[_Block, ...]


class SdpaAttention:
    """torch.nn.functional.scaled_dot_product_attention."""

    name = "sdpa"

    def reason_not(self, spec: AttentionSpec, device: torch.device) -> str | None:
        if spec.folded or spec.kv_dtype not in (None, spec.dtype):
            return "it wants keys and values in the cache as they are computed with"
        if spec.softcap is not None:
            return "it cannot cap scores"
        if spec.sinks and device.type != "cpu":
            return "sinks need the log-sum-exp, which only torch's CPU kernel hands out"
        return None

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        decode_rows(spec, q, cache, batch, group, sinks, out)
        key = (self.name, group, spec.window)
        work = batch.scratch.get(key)
        if work is None:
            rows = range(batch.singles, len(batch.spans))
            work = [_long(spec, batch.spans[row], batch.groups[group], q.dtype) for row in rows]
            batch.scratch[key] = work
        for piece in work:
            _prefill(spec, piece, q, cache, sinks, out)
        return out


def decode_rows(
    spec: AttentionSpec,
    q: torch.Tensor,
    cache: LayerCache,
    batch: Batch,
    group: int,
    sinks: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """The batch's rows with a single query, into `out`, which like q is [tokens, heads, head_dim]."""
    key = ("decode", group, spec.window)  # what to gather is the same for all layers of a group: made once a step
    work = batch.scratch.get(key)
    if work is None:
        work = batch.scratch[key] = _buckets(spec, batch.spans, batch.singles, batch.groups[group], q.dtype)
    for piece in work:
        _decode(spec, piece, q, cache, sinks, out)


def _buckets(spec: AttentionSpec, spans: tuple[Span, ...], singles: int, group: GroupBatch, dtype: torch.dtype) -> list[_Decode]:
    """The first `singles` rows, shortest first, in buckets of similar length."""
    work: list[_Decode] = []
    first = 0
    while first < singles:
        last = first + 1
        # Twice the shortest is the most padding that a bucket accepts.
        while last < singles and _keys(spec, spans[last]) <= 2 * _keys(spec, spans[first]) + 64:
            last += 1
        work.append(_bucket(spec, spans, first, last, group, dtype))
        first = last
    return work


def _keys(spec: AttentionSpec, span: Span) -> int:
    return span.length if spec.window is None else min(span.length, spec.window)


def _bucket(
    spec: AttentionSpec, spans: tuple[Span, ...], first: int, last: int, group: GroupBatch, dtype: torch.dtype
) -> _Decode:
    size = group.page_tokens
    device = group.table.device
    lengths = [span.length for span in spans[first:last]]
    oldest = [length - _keys(spec, span) for length, span in zip(lengths, spans[first:last], strict=True)]
    start = [key // size for key in oldest]
    width = max(-(-length // size) - page for length, page in zip(lengths, start, strict=True))
    if last - first == 1:
        pages = group.table[spans[first].slot, start[0] : start[0] + width]
        skip = oldest[0] - start[0] * size
        return _Decode(first, last, pages, width, None, skip, lengths[0] - oldest[0])
    start_at = torch.tensor(start, device=device)[:, None]
    column = (start_at + torch.arange(width, device=device)).clamp_(max=group.table.shape[1] - 1)
    slots = torch.tensor([span.slot for span in spans[first:last]], device=device)[:, None]
    pages = group.table[slots, column]
    key_at = start_at * size + torch.arange(width * size, device=device)
    length_at = torch.tensor(lengths, device=device)[:, None]
    hidden = (key_at >= length_at) | (key_at < torch.tensor(oldest, device=device)[:, None])
    mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
    return _Decode(first, last, pages.flatten(), width, mask[:, None, None, :], 0, 0)


def _long(spec: AttentionSpec, span: Span, group: GroupBatch, dtype: torch.dtype) -> _Prefill:
    """Blocks of queries, each with the keys that it can see: what lies above the diagonal is mostly never computed."""
    size, device = group.page_tokens, group.table.device
    first = first_live_page(span.start, spec.window, size)
    gathered = first * size  # position of the first gathered key
    blocks = []
    for start in range(0, span.count, _BLOCK):
        stop = min(start + _BLOCK, span.count)
        low = gathered if spec.window is None else max(gathered, span.start + start - spec.window + 1)
        query_at = torch.arange(span.start + start, span.start + stop, device=device)[:, None]
        key_at = torch.arange(low, span.start + stop, device=device)[None, :]
        hidden = key_at > query_at
        if spec.window is not None:
            hidden |= key_at <= query_at - spec.window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
        blocks.append(_Block(start, stop, low - gathered, span.start + stop - gathered, mask[None, None]))
    return _Prefill(span.offset, group.table[span.slot, first : -(-span.length // size)], tuple(blocks))


def _decode(
    spec: AttentionSpec, piece: _Decode, q: torch.Tensor, cache: LayerCache, sinks: torch.Tensor | None, out: torch.Tensor
) -> None:
    rows = piece.last - piece.first
    query = q[piece.first : piece.last].unflatten(1, (spec.kv_heads, -1))  # [rows, kv heads, queries a kv head, head_dim]
    k = cache.k.index_select(0, piece.pages).view(rows, -1, spec.kv_heads, spec.head_dim)
    v = cache.v.index_select(0, piece.pages).view(rows, -1, spec.kv_heads, spec.head_dim)
    if piece.mask is None:
        k, v = k[:, piece.skip : piece.skip + piece.keys], v[:, piece.skip : piece.skip + piece.keys]
    k, v = k.transpose(1, 2), v.transpose(1, 2)  # [rows, kv heads, keys, head_dim]
    if sinks is None:
        mixed = functional.scaled_dot_product_attention(query, k, v, attn_mask=piece.mask, scale=spec.scale)
    else:
        mixed, total = _with_total(query, k, v, piece.mask, spec.scale)
        mixed = _sink(mixed, total, sinks.view(1, spec.kv_heads, -1))
    out[piece.first : piece.last] = mixed.flatten(1, 2)


def _prefill(
    spec: AttentionSpec, piece: _Prefill, q: torch.Tensor, cache: LayerCache, sinks: torch.Tensor | None, out: torch.Tensor
) -> None:
    keys = cache.k.index_select(0, piece.pages).flatten(0, 1).transpose(0, 1)[None]  # [1, kv heads, keys, head_dim]
    values = cache.v.index_select(0, piece.pages).flatten(0, 1).transpose(0, 1)[None]
    for block in piece.blocks:
        rows = slice(piece.offset + block.first, piece.offset + block.last)
        query = q[rows].transpose(0, 1)[None]  # [1, heads, queries, head_dim]
        k, v = keys[:, :, block.low : block.high], values[:, :, block.low : block.high]
        if sinks is None:
            mixed = functional.scaled_dot_product_attention(
                query, k, v, attn_mask=block.mask, scale=spec.scale, enable_gqa=spec.heads != spec.kv_heads
            )
        else:
            mixed, total = _with_total(query, k, v, block.mask, spec.scale)
            mixed = _sink(mixed, total, sinks.view(1, -1, 1))
        out[rows] = mixed[0].transpose(0, 1)


def _with_total(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention and the log-sum-exp of each query's scores [rows, heads, queries], float32."""
    mixed, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
    return mixed, total


def _sink(mixed: torch.Tensor, total: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    """Enlarge the softmax denominator by exp(sink), after the fact."""
    return mixed * torch.sigmoid(total - sinks.to(torch.float32))[..., None].to(mixed.dtype)
