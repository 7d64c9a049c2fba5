"""Attention of prompts from their first token: all that they see is in the step itself, so it is gathered first.

Plain tensors save every tile the page table, widening of 8-bit numbers and rebuilding of folded keys. A row with a cached
prefix reads the cache where it is: its context may be far longer than the step.
"""

from __future__ import annotations

import torch

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.run.batch import Batch

_LEAST_TOKENS = 256  # of the longest row; below, the additional kernel costs more than it saves
_LEAST_WINDOW = 256  # shorter ones read each key so rarely that gathering does not pay


def first_fresh(spec: AttentionSpec, batch: Batch) -> int:
    """The row from which on all rows start at position 0 and are worth gathering; the number of rows if none is."""
    if len(batch.spans) != batch.rows or batch.most < _LEAST_TOKENS:  # in graphs the host does not know where rows lie
        return batch.rows
    if spec.window is not None and spec.window < _LEAST_WINDOW:
        return batch.rows
    first = batch.rows
    while first > batch.singles and batch.spans[first - 1].start == 0:
        first -= 1
    return first


def attend_fresh(
    spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, first: int,
    sinks: torch.Tensor | None, out: torch.Tensor,
) -> None:  # fmt: skip
    """The rows from `first` on, all fresh, into `out`, which like q is [tokens, heads, head_dim]."""
    from tokenwell.engine.kernels.paged_gather import paged_gather
    from tokenwell.engine.kernels.paged_prefill import paged_prefill

    where = batch.groups[group]
    tokens = slice(batch.spans[first].offset, None)
    k, v = paged_gather(
        cache, where.table, where.page_tokens, batch.slots, batch.positions[tokens], batch.token_rows[tokens], q.dtype
    )
    starts = batch.starts[first:] - batch.starts[first]
    rows = range(batch.rows - first)
    paged_prefill(
        spec, q[tokens], LayerCache(k[None], v[None]), where.table, 0, starts[:-1], starts, batch.lengths[first:], rows,
        batch.most, sinks, out[tokens],
    )  # fmt: skip
