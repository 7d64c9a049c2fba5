"""Attention written out in plain float32 torch: slow, device-neutral, and what every other backend is compared with."""

from __future__ import annotations

from itertools import pairwise

import torch

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.run.batch import Batch, Span
from tokenwell.wire.cache import first_live_page


class ReferenceAttention:
    """One row at a time, every score in float32. Not for graphs: it asks the device how long rows are where nobody says."""

    name = "reference"

    def reason_not(self, spec: AttentionSpec, device: torch.device) -> str | None:
        return None

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        table, page_tokens = batch.groups[group].table, batch.groups[group].page_tokens
        for span in batch.spans or _spans(batch):
            first = first_live_page(span.start, spec.window, page_tokens)
            pages = table[span.slot, first : -(-span.length // page_tokens)]
            at = (
                first * page_tokens + torch.arange(len(pages) * page_tokens, device=q.device)[: span.length - first * page_tokens]
            )
            k, v = keys_and_values(cache, pages, at)
            rows = slice(span.offset, span.offset + span.count)
            query_at = torch.arange(span.start, span.length, device=q.device)
            out[rows] = plain_attention(spec, q[rows], k, v, query_at, at, sinks).to(q.dtype)
        return out


def _spans(batch: Batch) -> list[Span]:
    """Where the rows lie, read from the device."""
    starts, slots, lengths = batch.starts.tolist(), batch.slots.tolist(), batch.lengths.tolist()
    counts = [after - before for before, after in pairwise(starts)]
    return [
        Span(slot, start, length - count, count)
        for slot, start, length, count in zip(slots, starts, lengths, counts, strict=False)
    ]


def keys_and_values(cache: LayerCache, pages: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a row, each [keys, kv heads, head_dim] float32, from its pages [pages]; positions [keys]."""
    v = cache.v[pages].flatten(0, 1)[: len(positions)].to(torch.float32) * cache.v_scale
    if cache.fold is not None:
        return cache.fold.keys(v, positions), v
    return cache.k[pages].flatten(0, 1)[: len(positions)].to(torch.float32) * cache.k_scale, v


def plain_attention(
    spec: AttentionSpec, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, query_at: torch.Tensor, key_at: torch.Tensor,
    sinks: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """q [queries, heads, head_dim] at positions query_at over k, v [keys, kv heads, head_dim] at key_at, in float32."""
    packed = q.to(torch.float32).unflatten(1, (spec.kv_heads, -1))  # [queries, kv heads, queries a kv head, head_dim]
    scores = torch.einsum("qhgd,khd->hgqk", packed, k) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    seen = key_at[None, :] <= query_at[:, None]
    if spec.window is not None:
        seen &= key_at[None, :] > query_at[:, None] - spec.window
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        column = sinks.to(torch.float32).view(spec.kv_heads, -1, 1, 1).expand(-1, -1, len(q), 1)
        scores = torch.cat((scores, column), dim=-1)
    weights = scores.softmax(-1)[..., : len(k)]
    return torch.einsum("hgqk,khd->qhgd", weights, v).flatten(1, 2)
