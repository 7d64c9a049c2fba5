"""Attention on x86 CPUs in bf16 by kernels of ours: one for rows that prefill, one for rows that decode.

torch's fused attention spends more time on the softmax than on the products; the first kernel does not, and never computes what
nobody sees. The second reads pages where they lie and asks the host nothing, so that a step can be recorded.
"""

from __future__ import annotations

import torch

from tokenwell.engine.attention.sdpa import decode_rows
from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.kernels import cpu_attention, cpu_paged
from tokenwell.engine.run.batch import Batch
from tokenwell.wire.cache import first_live_page


class CpuAttention:
    """The kernels of kernels.cpu_attention and kernels.cpu_paged."""

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
        out = torch.empty(q.shape, dtype=q.dtype)
        if batch.singles:
            _attend_singles(spec, q, cache, batch, group, sinks, out)
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


def _attend_singles(
    spec: AttentionSpec,
    q: torch.Tensor,
    cache: LayerCache,
    batch: Batch,
    group: int,
    sinks: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """The batch's rows with a single query, into `out`."""
    one, count = batch.groups[group], batch.singles
    if cpu_paged.reason_not(spec, one.page_tokens, q.device) is None:
        kernels = cpu_paged.prepare(spec.head_dim, spec.heads // spec.kv_heads)
        pages = cpu_paged.Pages(cache, one.table, one.page_tokens, batch.slots)
        cpu_paged.attend(kernels, pages, q[:count], batch.lengths, batch.longest, spec.scale, spec.window, sinks, out[:count])
    elif batch.spans:
        decode_rows(spec, q, cache, batch, group, sinks, out)
    else:
        raise RuntimeError(f"attention over pages of {one.page_tokens} tokens asks the host how long rows are")
