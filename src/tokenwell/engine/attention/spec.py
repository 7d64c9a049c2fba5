"""What one attention layer asks for, what a backend promises, and the cache that both see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from tokenwell.engine.run.batch import Batch

FP8 = torch.float8_e4m3fn  # the 8-bit dtype of caches
_FP8_MAX = 448.0


@dataclass(frozen=True)
class AttentionSpec:
    """The facts of a layer on this rank. A query at position i sees keys j <= i, and i - window < j when there is a window."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    dtype: torch.dtype = torch.float32  # of queries, and of what keys and values become
    window: int | None = None
    softcap: float | None = None  # scores become cap * tanh(scores / cap)
    sinks: bool = False  # one extra logit a head that only enlarges the denominator
    kv_dtype: torch.dtype | None = None  # of the cache; None: dtype
    folded: bool = False  # keys are rebuilt from values (Fold)


@dataclass(frozen=True)
class Fold:
    """Keys that are not stored, because K = rope(weight * V): channel i turns with i + half for i < turning, others do not."""

    weight: torch.Tensor  # [head_dim], of the keys' norm
    cos: torch.Tensor  # [positions, turning], contiguous
    sin: torch.Tensor  # [positions, turning], contiguous
    half: int

    @property
    def turning(self) -> int:
        """Pairs of channels that turn."""
        return self.cos.shape[1]

    def keys(self, v: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Keys [keys, kv heads, head_dim] float32 from values of the same shape at `positions` [keys]."""
        k = v.to(torch.float32) * self.weight.to(torch.float32)
        cos = self.cos[positions].to(torch.float32)[:, None]  # [keys, 1, turning]
        sin = self.sin[positions].to(torch.float32)[:, None]
        first, second = k[..., : self.turning].clone(), k[..., self.half : self.half + self.turning].clone()
        k[..., : self.turning] = first * cos - second * sin
        k[..., self.half : self.half + self.turning] = second * cos + first * sin
        return k


def fold_for(weight: torch.Tensor, frequencies: torch.Tensor, factor: float, half: int, positions: int) -> Fold:
    """The fold of a layer whose key norm has `weight` [head_dim], for positions below `positions`.

    frequencies [turning] float32 are radians per position of the pairs that turn; cosines and sines are multiplied by `factor`.
    They are kept as float16 beside 16-bit weights: 2^-11 of one, half of what bfloat16 keys are rounded by.
    """
    dtype = torch.float32 if weight.dtype == torch.float32 else torch.float16
    angle = torch.arange(positions, dtype=torch.float32, device=weight.device)[:, None] * frequencies.to(weight.device)
    return Fold(weight, (angle.cos() * factor).to(dtype), (angle.sin() * factor).to(dtype), half)


@dataclass(frozen=True)
class LayerCache:
    """One layer's view of the page pool: k and v [pages, page_tokens, kv heads, head_dim], strided, never contiguous.

    A key is k * k_scale, a value v * v_scale. With a fold only v is stored, and k is v.
    """

    k: torch.Tensor
    v: torch.Tensor
    k_scale: float = 1.0
    v_scale: float = 1.0
    fold: Fold | None = None

    def write(self, k: torch.Tensor, v: torch.Tensor, slots: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Store k, v [tokens, kv heads, head_dim] at `slots` = (page, offset in page), each [tokens]."""
        if self.fold is None:
            self.k[slots] = _stored(k, self.k.dtype, self.k_scale)
        self.v[slots] = _stored(v, self.v.dtype, self.v_scale)


def _stored(x: torch.Tensor, dtype: torch.dtype, scale: float) -> torch.Tensor:
    if dtype != FP8:
        return x.to(dtype)
    return (x.to(torch.float32) / scale).clamp(-_FP8_MAX, _FP8_MAX).to(dtype)


@dataclass(frozen=True, slots=True)
class Shared:
    """Keys in pages that several rows of one token have in common, in the KV group whose layers see all keys."""

    group: int
    keys: torch.Tensor  # [rows] int32: how many of a row's first keys it shares
    members: torch.Tensor  # [rows] int32: rows, those of a set one after the other
    sets: torch.Tensor  # [sets, 4] int32: first place among members, how many, the keys they share, a slot that has them


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
