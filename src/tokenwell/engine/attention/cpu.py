"""Attention on x86 CPUs in bf16: rows that prefill go through a kernel of ours, rows that decode through torch's.

torch's fused attention spends more time on the softmax than on the products; the kernel does not, and never computes what
nobody sees. One query a row is memory-bound either way.
"""

from __future__ import annotations

import torch

from tokenwell.engine.attention.sdpa import decode_rows
from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.kernels import cpu_attention
from tokenwell.engine.run.batch import Batch
from tokenwell.wire.cache import first_live_page


class CpuAttention:
    """The kernels of kernels.cpu_attention for prefill."""

    name = "cpu kernel"

    def reason_not(self, spec: AttentionSpec, device: torch.device) -> str | None:
        if spec.softcap is not None:
            return "it cannot cap scores"
        reason = cpu_attention.reason_not(spec.head_dim, spec.dtype, device)
        if reason is None and (spec.folded or spec.kv_dtype not in (None, spec.dtype)):
            reason = "it wants keys and values in the cache as they are computed with"
        return reason

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        decode_rows(spec, q, cache, batch, group, sinks, out)
        kernels = cpu_attention.prepare(spec.head_dim)
        table, size = batch.groups[group].table, batch.groups[group].page_tokens
        for row in range(batch.singles, len(batch.spans)):
            span = batch.spans[row]
            first = first_live_page(span.start, spec.window, size)
            pages = table[span.slot, first : -(-span.length // size)]
            k = cache.k.index_select(0, pages).flatten(0, 1)  # [keys, kv heads, head_dim]
            v = cache.v.index_select(0, pages).flatten(0, 1)
            rows = slice(span.offset, span.offset + span.count)
            position = span.start - first * size  # of the first query among the gathered keys
            out[rows] = cpu_attention.attention(kernels, q[rows], k, v, spec.scale, position, spec.window, sinks)
        return out
