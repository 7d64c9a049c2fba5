"""Weights in 8 and 4 bits that a Linear may have.

Where the card multiplies e4m3, two tokens and more are quantised, too, for e4m3 weights with a scale for each row. All others
read the codes as they are and compute in the activations' dtype while they are few, and many multiply by slices that are
dequantised on the way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import trust
from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.linear import FEW_TOKENS, Around, Weight, few
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.quant.fp8 import Fp8Matrix
from tokenwell.engine.weights.quant.int4 import Int4Matrix

_SLICE = 1 << 25  # elements that are dequantised at a time: 64 MiB in bfloat16
_MULTIPLE = 16  # torch's product of e4m3 matrices wants sizes that this divides


def _multiplies(device: torch.device) -> bool:
    """Whether activations are quantised, too."""
    return accelerator.fp8_units(device) and "fp8" not in trust.distrusted()


def weight(matrix: Fp8Matrix | Int4Matrix) -> Weight:
    """The format's weight."""
    return Fp8Weight(matrix) if isinstance(matrix, Fp8Matrix) else Int4Weight(matrix)


class Fp8Weight:
    """e4m3 codes with float32 scales."""

    def __init__(self, matrix: Fp8Matrix) -> None:
        self.matrix = matrix

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None, before: RmsNorm | Gated | None = None) -> torch.Tensor:
        if self.takes_codes(x.dtype):
            return self.of_codes(self.codes(x, before), bias)
        if before is not None:
            x = before(x)
        return _sliced(x, self.matrix, bias)

    def is_few(self, x: torch.Tensor) -> bool:
        return len(x) <= (1 if self.takes_codes(x.dtype) else FEW_TOKENS)

    def few(self, x: torch.Tensor, bias: torch.Tensor | None, around: Around) -> torch.Tensor | None:
        return few(x, self.matrix.codes, bias, around, scales=self.matrix.scales, group=self.matrix.group)

    def takes_codes(self, dtype: torch.dtype) -> bool:
        """Whether activations in `dtype` are quantised, too."""
        out, depth = self.matrix.codes.shape
        even = self.matrix.group == 0 and not (out % _MULTIPLE or depth % _MULTIPLE)
        return even and dtype == torch.bfloat16 and _multiplies(self.matrix.codes.device)

    def codes(self, x: torch.Tensor, before: RmsNorm | Gated | None) -> Codes:
        """before(x) in e4m3, by one kernel; x is [tokens, in], or what a product in parts gave."""
        from tokenwell.engine.kernels import fp8, gated, norms

        if isinstance(before, Gated) and before.kind is not None and gated.quantised_reason_not(x.shape[-1] // 2) is None:
            return gated.gated_quantised(x, before.kind)
        if x.dim() == 3:
            x = x.sum(0).to(torch.bfloat16)
        if isinstance(before, RmsNorm) and (before.weight is None or before.weight.dim() == 1):
            return norms.rms_norm_quantised(x, before.weight, before.eps)
        return fp8.quantise_tokens(x if before is None else before(x))

    def of_codes(self, x: Codes, bias: torch.Tensor | None, *, in_parts: bool = False) -> torch.Tensor:
        """The product in bfloat16; in parts: or float32 [parts, tokens, out]."""
        from tokenwell.engine.kernels import fp8_linear

        if fp8_linear.reason_not(x, self.matrix.codes) is None:
            return fp8_linear.linear(x, self.matrix.codes, self.matrix.scales, bias=bias, in_parts=in_parts)
        return torch._scaled_mm(
            x.codes, self.matrix.codes.T, scale_a=x.scale, scale_b=self.matrix.scales[None, :], bias=bias,
            out_dtype=torch.bfloat16, use_fast_accum=True,
        )  # fmt: skip


class Int4Weight:
    """4-bit codes with a scale and zero for each group of columns."""

    def __init__(self, matrix: Int4Matrix) -> None:
        self.matrix = matrix

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None, before: RmsNorm | Gated | None = None) -> torch.Tensor:
        if before is not None:
            x = before(x)
        return _sliced(x, self.matrix, bias)

    def is_few(self, x: torch.Tensor) -> bool:
        return len(x) <= FEW_TOKENS

    def few(self, x: torch.Tensor, bias: torch.Tensor | None, around: Around) -> torch.Tensor | None:
        from tokenwell.engine.kernels import int4

        if around.softcap is not None or around.dtype is not None or "int4" in trust.distrusted():
            return None
        if int4.reason_not(x, self.matrix) is not None:
            return None
        if around.norm is not None:
            x = around.norm(x)
        kind = None if around.gated is None else around.gated.kind
        return int4.linear(x, self.matrix, bias=bias, activation=kind, residual=around.plus)


def _sliced(x: torch.Tensor, matrix: Fp8Matrix | Int4Matrix, bias: torch.Tensor | None) -> torch.Tensor:
    """The product with rows of the matrix that are dequantised a slice at a time."""
    if ("int4" if isinstance(matrix, Int4Matrix) else "fp8") in trust.distrusted():
        return functional.linear(x, matrix.dense(x.dtype), bias)
    if isinstance(matrix, Int4Matrix) and matrix.order is not None:
        x = x[:, matrix.order]
    out, depth = matrix.codes.shape[0], x.shape[1]
    count = max(1, _SLICE // depth)
    if out <= count:
        return functional.linear(x, _rows(matrix, 0, out, x.dtype), bias)
    y = torch.empty((len(x), out), dtype=x.dtype, device=x.device)
    for first in range(0, out, count):
        last = min(out, first + count)
        rows = _rows(matrix, first, last, x.dtype)
        y[:, first:last] = functional.linear(x, rows, None if bias is None else bias[first:last])
    return y


def _rows(matrix: Fp8Matrix | Int4Matrix, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of the matrix in `dtype`."""
    from tokenwell.engine.kernels import fp8, int4

    if isinstance(matrix, Int4Matrix):
        return int4.dequantise(matrix, first, last, dtype)
    return fp8.dequantise(matrix.codes[first:last], matrix.scales[first:last], matrix.group, dtype)
