"""RMS normalisation (Zhang and Sennrich 2019), computed in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from tokenwell.engine.weights.source import Source


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; without weight the factor is left out."""

    def __init__(self, weight: torch.Tensor | None, dim: int, eps: float) -> None:
        self.weight = weight
        self.shape = (dim,)
        self.eps = eps

    @classmethod
    def load(cls, source: Source, name: str, dim: int, eps: float) -> RmsNorm:
        """Read `<name>.weight` [dim]."""
        return cls(source.tensor(f"{name}.weight", (dim,)), dim, eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] -> [..., dim]"""
        return functional.rms_norm(x, self.shape, self.weight, self.eps)
