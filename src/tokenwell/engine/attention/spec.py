"""What one attention layer asks for, what a backend promises, and the cache that both see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from tokenwell.engine.run.batch import Batch


@dataclass(frozen=True)
class AttentionSpec:
    """The facts of a layer on this rank. A query at position i sees keys j <= i, and i - window < j when there is a window."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    dtype: torch.dtype = torch.float32  # of queries, keys and values
    window: int | None = None
    softcap: float | None = None  # scores become cap * tanh(scores / cap)
    sinks: bool = False  # one extra logit a head that only enlarges the denominator


@dataclass(frozen=True)
class LayerCache:
    """One layer's view of the page pool: k and v [pages, page_tokens, kv heads, head_dim], strided, never contiguous."""

    k: torch.Tensor
    v: torch.Tensor

    def write(self, k: torch.Tensor, v: torch.Tensor, slots: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Store k, v [tokens, kv heads, head_dim] at `slots` = (page, offset in page), each [tokens]."""
        self.k[slots] = k
        self.v[slots] = v


class Backend(Protocol):
    """A way to compute attention. Modules of this folder offer `BACKEND` with this shape."""

    name: str

    def reason_not(self, spec: AttentionSpec, device: torch.device) -> str | None:
        """Why this backend cannot serve `spec` on `device`; None when it can."""
        ...

    def attend(
        self, spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, batch: Batch, group: int, sinks: torch.Tensor | None
    ) -> torch.Tensor:
        """q [tokens, heads, head_dim] -> [tokens, heads, head_dim]; the cache already holds the step's own keys."""
        ...
