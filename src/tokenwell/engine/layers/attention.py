"""The attention of one layer between projections: norms and rotates heads, writes keys and values into the paged cache,
then attends.

Knows which cache it writes and reads; the arithmetic is a backend's (engine/attention).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from tokenwell.engine.attention.spec import AttentionSpec, Backend
from tokenwell.engine.kernels import cpu_paged, trust
from tokenwell.engine.kernels.heads import Heads
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.layers.rotary import Rotary
from tokenwell.engine.run.batch import Batch


@dataclass(frozen=True)
class CacheOwner:
    """Where a layer's keys and values live: the owning layer's index and its group's index."""

    layer: int
    group: int


class Attention:
    """Scaled dot-product attention of one layer over the cache of `owner` (another layer's when K and V are shared)."""

    def __init__(
        self, spec: AttentionSpec, owner: CacheOwner, backend: Backend, heads: Heads, rotary: Rotary,
        sinks: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.owner = owner
        self.backend = backend
        self.heads = heads
        self.rotary = rotary
        self.sinks = sinks
        self.v_norm = RmsNorm(None, heads.head_dim, heads.eps)

    def front(self, qkv: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Store the keys and values of the batch's tokens; their queries [tokens, heads, head_dim], ready to attend.

        qkv [tokens, heads of all kinds * head_dim], as `Heads` says; it may be overwritten.
        """
        if trust.reason_not("front", qkv.device) is None:
            return self._kernel(qkv, batch)
        heads = self.heads
        rows = qkv.unflatten(-1, (-1, heads.head_dim))
        rotated = heads.heads + (heads.kv_heads if heads.owns else 0)
        # With one projection for both, values are the projected keys before their own norm and rotation.
        v = rows[:, heads.heads : rotated] if heads.k_eq_v else rows[:, rotated:]
        if heads.v_norm and heads.owns:
            v = self.v_norm(v)
        qk = rows[:, :rotated] if self._qk_norm is None else self._qk_norm(rows[:, :rotated])
        if heads.k_eq_v and not heads.v_norm:
            v = v.clone()  # keys may be rotated in place
        qk = self.rotary.rotate(qk, *self._angles(batch))
        if heads.owns:
            self._write(qk[:, heads.heads :], v, batch)
        return qk[:, : heads.heads]

    def _write(self, k: torch.Tensor, v: torch.Tensor, batch: Batch) -> None:
        """Keys and values [tokens, kv heads, head_dim] into the cache."""
        cache, group = batch.caches[self.owner.layer], batch.groups[self.owner.group]
        if cpu_paged.reason_not(self.spec, group.page_tokens, k.device) is not None:
            cache.write(k, v, batch.places(self.owner.group))
            return
        kernels = cpu_paged.prepare(self.spec.head_dim, self.spec.heads // self.spec.kv_heads)
        pages = cpu_paged.Pages(cache, group.table, group.page_tokens, batch.slots)
        cpu_paged.store(kernels, pages, k, v, batch.token_rows, batch.positions)

    def attend(self, q: torch.Tensor, batch: Batch, backend: Backend | None = None) -> torch.Tensor:
        """q [tokens, heads, head_dim] of the batch's tokens, whose keys are stored -> [tokens, heads * head_dim]

        `backend` takes the place of the layer's own.
        """
        cache = batch.caches[self.owner.layer]
        return (backend or self.backend).attend(self.spec, q, cache, batch, self.owner.group, self.sinks).flatten(1)

    def _angles(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The rotary angles of the batch's positions, made once a step."""
        turns = trust.reason_not("front", batch.positions.device) is None
        key = ("angles", self.rotary, turns)
        made = batch.scratch.get(key)
        if made is None:
            made = self.rotary.turns(batch.positions) if turns else self.rotary.angles(batch.positions)
            batch.scratch[key] = made
        cos, sin = made
        return cos, sin

    def _kernel(self, qkv: torch.Tensor, batch: Batch) -> torch.Tensor:
        """`front` as one kernel."""
        from tokenwell.engine.kernels import front

        cache, group = batch.caches[self.owner.layer], batch.groups[self.owner.group]
        cos, sin = self._angles(batch)
        return front.front(
            qkv, self.heads, cos, sin, batch.positions, batch.token_rows, batch.slots, group.table, group.page_tokens,
            cache.k, cache.v, cache.k_scale, cache.v_scale, folded=cache.fold is not None,
        )  # fmt: skip

    @cached_property  # what computes with kernels of ours has no use for it
    def _qk_norm(self) -> RmsNorm | None:
        """One factor for each channel of each query and key head, so that both are normed at once."""
        heads = self.heads
        if heads.q_norm is None:
            return None
        weights = [heads.q_norm.expand(heads.heads, -1)]
        if heads.k_norm is not None:
            weights.append(heads.k_norm.expand(heads.kv_heads, -1))
        return RmsNorm(torch.cat(weights), heads.head_dim, heads.eps)
