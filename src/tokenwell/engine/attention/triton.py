"""Attention by our Triton kernels on accelerators: rows with one query go to the decode kernel, the others to prefill's."""

from __future__ import annotations

import torch

from tokenwell.engine.attention.dense import attend_dense, pays
from tokenwell.engine.attention.spec import FP8, AttentionSpec, LayerCache
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.batch import Batch

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_WIDEST = 512  # of heads whose tiles fit
_MOST_QUERIES = 64  # a key head


class TritonAttention:
    """The kernels of kernels.paged_decode and kernels.paged_prefill."""

    name = "triton"

    def reason_not(self, spec: AttentionSpec, device: torch.device) -> str | None:
        if spec.dtype not in _DTYPES:
            return f"its queries are 16 or 32 bits wide, not {spec.dtype}"
        if spec.kv_dtype not in (None, spec.dtype, FP8):
            return f"its caches hold {spec.dtype} or {FP8}, not {spec.kv_dtype}"
        if spec.head_dim > _WIDEST:
            return f"heads of {spec.head_dim} channels are wider than {_WIDEST}"
        if spec.heads // spec.kv_heads > _MOST_QUERIES:
            return f"{spec.heads // spec.kv_heads} queries share a key head, more than {_MOST_QUERIES}"
        return accelerator.kernels_reason_not(device)

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        from tokenwell.engine.kernels.paged_decode import paged_decode
        from tokenwell.engine.kernels.paged_prefill import paged_prefill

        if q.stride(2) != 1 or q.stride(1) != spec.head_dim:
            q = q.contiguous()
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        table, page_tokens = batch.groups[group].table, batch.groups[group].page_tokens
        singles = batch.singles
        if singles:
            shared = batch.shared if batch.shared is not None and batch.shared.group == group else None
            paged_decode(
                spec, q, cache, table, page_tokens, batch.slots[:singles], batch.lengths, batch.longest, sinks, out, shared=shared
            )
        if singles < batch.rows and pays(spec, batch):
            attend_dense(spec, q, cache, batch, group, sinks, out)
        elif singles < batch.rows:
            paged_prefill(
                spec, q, cache, table, page_tokens, batch.slots, batch.starts, batch.lengths, range(singles, batch.rows),
                batch.most, sinks, out,
            )  # fmt: skip
        return out


BACKEND = TritonAttention()
