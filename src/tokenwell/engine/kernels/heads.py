"""What a row of the fused projection of queries, keys and values holds, and what becomes of it before attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Heads:
    """[heads | kv_heads keys | kv_heads values] of head_dim each; keys and values only where the layer has its own.

    Queries and keys are normed where there is a weight, then rotated: channel i with i + half, for i < turning.
    """

    heads: int
    kv_heads: int
    head_dim: int
    half: int
    turning: int
    eps: float = 0.0
    q_norm: torch.Tensor | None = None  # [head_dim]
    k_norm: torch.Tensor | None = None  # [head_dim]
    v_norm: bool = False  # values are normed, without a weight
    owns: bool = True  # the layer has keys and values of its own
    k_eq_v: bool = False  # values are the keys before norm and rotation; the row holds them once
