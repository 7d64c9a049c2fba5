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

    def write(self, k: torch.Tensor, v: torch.Tensor, batch: Batch) -> None:
        """Store k, v [tokens, kv heads, head_dim] of the batch's tokens."""
        batch.caches[self.owner.layer].write(k, v, batch.places(self.owner.group))

    def attend(self, q: torch.Tensor, batch: Batch) -> torch.Tensor:
        """q [tokens, heads, head_dim] of the batch's tokens, whose keys are stored -> [tokens, heads * head_dim]"""
        cache = batch.caches[self.owner.layer]
        return self.backend.attend(self.spec, q, cache, batch, self.owner.group, self.sinks).flatten(1)
