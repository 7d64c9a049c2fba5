"""Attention written out in plain float32 torch: slow, device-neutral, and what every other backend is compared with."""

from __future__ import annotations

import torch

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.run.batch import Batch
from tokenwell.wire.cache import first_live_page


class ReferenceAttention:
    """One row at a time, every score in float32."""

    name = "reference"

    def reason_not(self, spec: AttentionSpec, device: torch.device) -> str | None:
        return None

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        table, page_tokens = batch.groups[group].table, batch.groups[group].page_tokens
        for span in batch.spans:
            first = first_live_page(span.start, spec.window, page_tokens)
            pages = table[span.slot, first : -(-span.length // page_tokens)]
            k = cache.k[pages].flatten(0, 1).to(torch.float32)  # [keys, kv heads, head_dim]
            v = cache.v[pages].flatten(0, 1).to(torch.float32)
            query = q[span.offset : span.offset + span.count].to(torch.float32)
            packed = query.unflatten(1, (spec.kv_heads, -1))  # [queries, kv heads, queries a kv head, head_dim]
            scores = torch.einsum("qhgd,khd->hgqk", packed, k) * spec.scale
            if spec.softcap is not None:
                scores = spec.softcap * torch.tanh(scores / spec.softcap)
            query_at = torch.arange(span.start, span.length, device=q.device)[:, None]
            key_at = first * page_tokens + torch.arange(len(k), device=q.device)[None, :]
            seen = key_at <= query_at
            if spec.window is not None:
                seen &= key_at > query_at - spec.window
            scores = scores.masked_fill(~seen, -torch.inf)
            if sinks is not None:
                column = sinks.to(torch.float32).view(spec.kv_heads, -1, 1, 1).expand(-1, -1, span.count, 1)
                scores = torch.cat((scores, column), dim=-1)
            weights = scores.softmax(-1)[..., : len(k)]
            mixed = torch.einsum("hgqk,khd->qhgd", weights, v)
            out[span.offset : span.offset + span.count] = mixed.flatten(1, 2).to(q.dtype)
        return out
