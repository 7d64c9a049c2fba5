"""RMS normalisation (Zhang and Sennrich 2019), computed in float32, and the sums between blocks that are normed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import cpu_elementwise, trust
from tokenwell.engine.kernels.codes import Codes
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
            if trust.reason_not("norms", x.device) is None:
                from tokenwell.engine.kernels import norms

                return norms.rms_norm(x, self.weight, self.eps)
            return functional.rms_norm(x, (self.dim,), self.weight, self.eps)
        return functional.rms_norm(x, (self.dim,), None, self.eps) * self.weight

    def of_sum(self, x: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x + added and its norm, both [tokens, dim]: one pass over memory where there is a kernel.

        What is added may be in parts (`Linear.in_parts`).
        """
        if self._joins(x):
            total, normed = self._kernel(x, added)
            assert isinstance(normed, torch.Tensor)
            return total, normed
        added = added if added.dim() == 2 else added.sum(0).to(x.dtype)
        if self.weight is not None and cpu_elementwise.reason_not(self.dim, x.dtype, x.device) is None:
            return cpu_elementwise.add_rms_norm(cpu_elementwise.prepare("add_rms_norm"), x, added, self.weight, self.eps)
        total = x + added
        return total, self(total)

    def of_sum_coded(self, x: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | Codes]:
        """`of_sum` with the norm in e4m3 where a kernel makes it so: a product that takes it needs none to quantise it."""
        return self._kernel(x, added, coded=True) if self._joins(x) else self.of_sum(x, added)

    def _joins(self, x: torch.Tensor) -> bool:
        return self.weight is not None and self.weight.dim() == 1 and trust.reason_not("norms", x.device) is None

    def _kernel(self, x: torch.Tensor, added: torch.Tensor, *, coded: bool = False) -> tuple[torch.Tensor, torch.Tensor | Codes]:
        from tokenwell.engine.kernels import norms

        total, (normed,) = norms.join(x, added, self.eps, weights=(self.weight,), coded=(coded,))
        return total, normed


class Stream(NamedTuple):
    """The residual stream [tokens, dim], and its norm for the next block where one kernel has made both."""

    x: torch.Tensor
    normed: torch.Tensor | Codes | None = None

    def given(self, norm: RmsNorm) -> tuple[torch.Tensor | Codes, RmsNorm | None]:
        """What the next block's first product gets, and the norm that is still to be applied to it."""
        return (self.x, norm) if self.normed is None else (self.normed, None)


@dataclass(frozen=True)
class Join:
    """How what blocks put out is added to the residual stream, and the norms through which the next blocks read it.

        x' = (x + outer(sum of norm_i(y_i))) * scalar,   then next_j(x')

    All norms have the same dim and eps.
    """

    norms: tuple[RmsNorm, ...]  # one for each y, of which there are one or two
    next: tuple[RmsNorm, ...] = ()  # at most two
    outer: RmsNorm | None = None
    scalar: torch.Tensor | None = None  # [1]

    def __call__(self, x: torch.Tensor, *added: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """x and y_i [tokens, dim] -> x' and its norms, [tokens, dim] each. The first y may be in parts (`Linear.in_parts`)."""
        if trust.reason_not("norms", x.device) is None:
            total, outputs = self._kernel((), x, *added)
            return (total, *(output for output in outputs if isinstance(output, torch.Tensor)))
        if self._short(x, added):
            norm, following = self.norms[0], self.next[0].weight if self.next else None
            assert norm.weight is not None
            kernel = cpu_elementwise.prepare("join" if following is None else "join_norm")
            return cpu_elementwise.join(kernel, x, added[0], norm.weight, norm.eps, self.scalar, following)
        first = added[0] if added[0].dim() == 2 else added[0].sum(0).to(x.dtype)
        total = self.norms[0](first)
        for norm, y in zip(self.norms[1:], added[1:], strict=True):
            total = total + norm(y)
        total = x + (total if self.outer is None else self.outer(total))
        if self.scalar is not None:
            total = total * self.scalar
        return (total, *(norm(total) for norm in self.next))

    def _short(self, x: torch.Tensor, added: tuple[torch.Tensor, ...]) -> bool:
        """Whether the CPU's kernel does all of it: one block, at most one norm behind it."""
        if len(added) != 1 or len(self.next) > 1 or self.outer is not None or added[0].dim() != 2:
            return False
        if any(norm.weight is None or norm.weight.dim() != 1 for norm in (*self.norms, *self.next)):
            return False
        return cpu_elementwise.reason_not(self.norms[0].dim, x.dtype, x.device) is None

    def coded(
        self, coded: tuple[bool, ...], x: torch.Tensor, *added: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor | Codes]]:
        """x' and its norms, those for which `coded` says so in e4m3: products that take it need no kernel to quantise them."""
        if any(coded) and trust.reason_not("norms", x.device) is None:
            total, outputs = self._kernel(coded, x, *added)
            return total, list(outputs)
        total, *normed = self(x, *added)
        return total, list(normed)

    def _kernel(
        self, coded: tuple[bool, ...], x: torch.Tensor, first: torch.Tensor, second: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor | Codes, ...]]:
        from tokenwell.engine.kernels import norms

        return norms.join(
            x, first, self.norms[0].eps, first_norm=True, first_weight=self.norms[0].weight,
            second=second, second_norm=second is not None, second_weight=None if second is None else self.norms[1].weight,
            outer_weight=None if self.outer is None else self.outer.weight, scalar=self.scalar,
            weights=tuple(norm.weight for norm in self.next), coded=coded,
        )  # fmt: skip
