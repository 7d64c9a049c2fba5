"""RMS normalisation (Zhang and Sennrich 2019), computed in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import cpu_elementwise
from tokenwell.engine.weights.source import Source


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    The weight is [dim], or [heads, dim] for x [tokens, heads, dim] with a factor for each channel of each head; without
    weight the factor is left out.
    """

    def __init__(self, weight: torch.Tensor | None, dim: int, eps: float) -> None:
        self.weight = weight
        self.dim = dim
        self.eps = eps

    @classmethod
    def load(cls, source: Source, name: str, dim: int, eps: float) -> RmsNorm:
        """Read `<name>.weight` [dim]."""
        return cls(source.tensor(f"{name}.weight", (dim,)), dim, eps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] -> [..., dim]"""
        if cpu_elementwise.reason_not(self.dim, x.dtype, x.device) is None:
            kernel = cpu_elementwise.prepare("rms_norm_plain" if self.weight is None else "rms_norm")
            return cpu_elementwise.rms_norm(kernel, x, self.weight, self.eps)
        if self.weight is None or self.weight.dim() == 1:
            return functional.rms_norm(x, (self.dim,), self.weight, self.eps)
        return functional.rms_norm(x, (self.dim,), None, self.eps) * self.weight

    def of_sum(self, x: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x + added and its norm, both [tokens, dim]: one pass over memory where there is a kernel."""
        if self.weight is not None and cpu_elementwise.reason_not(self.dim, x.dtype, x.device) is None:
            return cpu_elementwise.add_rms_norm(cpu_elementwise.prepare("add_rms_norm"), x, added, self.weight, self.eps)
        total = x + added
        return total, self(total)
