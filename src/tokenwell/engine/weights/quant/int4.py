"""4-bit integer weights, value = (code - zero) * scale with a scale and zero for each group of columns. Knows the numbers only.

Checkpoints pack eight codes into an int32, low nibble first: GPTQ along the inputs, AWQ (GEMM layout) along the outputs with
the order 0 2 4 6 1 3 5 7, compressed-tensors along the inputs of the untransposed matrix. Here all become one layout, in
which neighbouring bytes hold neighbouring columns: of each `span` columns, byte j has column j in its low nibble and column
j + span / 2 in its high one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where code i of an int32 lies
SYMMETRIC_ZERO = 8


def span(group: int, columns: int) -> int:
    """Columns that are packed together: a power of two that divides a group (0: all columns are one)."""
    widest = 128
    while group % widest or columns % widest:
        widest //= 2
    return widest


@dataclass(frozen=True)
class Int4Matrix:
    """[out, in] in 4 bits."""

    codes: torch.Tensor  # [out, in / 2] uint8
    scales: torch.Tensor  # [out, groups], float
    zeros: torch.Tensor | None  # [out, groups] uint8; None: 8 everywhere
    group: int  # columns that share a scale; 0: all
    order: torch.Tensor | None = None  # [in] int64: column i here is column order[i] of the inputs

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        tensors = (self.codes, self.scales, self.zeros, self.order)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix [out, in], each value rounded once, columns in the order of the inputs."""
        codes = unpack(self.codes, span(self.group, 2 * self.codes.shape[1]))
        matrix = dequantise(codes, self.scales, self.zeros, self.group, dtype)
        if self.order is None:
            return matrix
        return torch.empty_like(matrix).index_copy_(1, self.order, matrix)


def dequantise(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, group: int, dtype: torch.dtype
) -> torch.Tensor:
    """codes [out, in] of 0 to 15 with scales and zeros [out, groups] -> [out, in]"""
    wide = codes.to(torch.float32).unflatten(1, (-1, group or codes.shape[1]))
    wide -= SYMMETRIC_ZERO if zeros is None else zeros.to(torch.float32)[:, :, None]
    wide *= scales.to(torch.float32)[:, :, None]
    return wide.flatten(1).to(dtype)


def pack(codes: torch.Tensor, span: int) -> torch.Tensor:
    """codes [out, in] of 0 to 15 -> [out, in / 2] uint8"""
    halves = codes.to(torch.uint8).unflatten(1, (-1, 2, span // 2))
    return (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1)


def unpack(packed: torch.Tensor, span: int) -> torch.Tensor:
    """What `pack` packed: uint8 [out, in]"""
    halves = packed.unflatten(1, (-1, span // 2))
    return torch.stack((halves & 15, halves >> 4), 2).flatten(1)


def nibbles(words: torch.Tensor, dim: int) -> torch.Tensor:
    """Eight codes an int32, low nibble first, along `dim`: uint8, eight times as long there."""
    shifts = torch.arange(0, 32, 4, device=words.device, dtype=torch.int32)
    codes = (words.unsqueeze(-1) >> shifts & 15).to(torch.uint8)
    return codes.movedim(-1, dim + 1).flatten(dim, dim + 1)


def awq_nibbles(words: torch.Tensor) -> torch.Tensor:
    """AWQ's eight codes an int32 along the last dimension: [..., n] -> [..., 8n] uint8."""
    codes = nibbles(words, words.dim() - 1).unflatten(-1, (-1, 8))
    return codes[..., _AWQ_ORDER].flatten(-2)
