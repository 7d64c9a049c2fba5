"""The attention of one layer between projections: writes keys and values into the paged cache, then attends.

Knows which cache it writes and reads; the arithmetic is a backend's (engine/attention).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tokenwell.engine.attention.spec import AttentionSpec, Backend
from tokenwell.engine.run.batch import Batch


@dataclass(frozen=True)
class CacheOwner:
    """Where a layer's keys and values live: the owning layer's index and its group's index."""

    layer: int
    group: int


class Attention:
    """Scaled dot-product attention of one layer over the cache of `owner` (another layer's when K and V are shared)."""

    def __init__(self, spec: AttentionSpec, owner: CacheOwner, backend: Backend, sinks: torch.Tensor | None = None) -> None:
        self.spec = spec
        self.owner = owner
        self.backend = backend
        self.sinks = sinks

    def __call__(self, q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        """q [tokens, heads, head_dim]; k, v [tokens, kv heads, head_dim] or None when shared -> [tokens, heads * head_dim]"""
        cache = batch.caches[self.owner.layer]
        group = batch.groups[self.owner.group]
        if k is not None and v is not None:
            cache.write(k, v, group.slots)
        return self.backend.attend(self.spec, q, cache, batch, self.owner.group, self.sinks).flatten(1)
