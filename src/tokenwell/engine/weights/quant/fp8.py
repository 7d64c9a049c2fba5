"""FP8 weights: e4m3 codes (OCP 8-bit Floating Point, 2023) with float32 scales, value = code * scale. Knows the numbers only.

A scale serves one row (an output channel) or a square block, 128 x 128 as DeepSeek-V3 (2024, section 3.3) stores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

DTYPE = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
BLOCK = 128  # rows and columns that share a scale in block formats

_SMALLEST_SCALE = 1e-12  # rows of zeros get it, so that nothing is divided by zero
_PIECE = 1 << 24  # elements in float32 at a time


def quantise_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., out, in] of any float dtype -> codes [..., out, in] e4m3 and scales [..., out] float32, amax(row) / 448.

    Temporaries stay within some 64 MiB, however large the matrix.
    """
    codes = torch.empty(matrix.shape, dtype=DTYPE, device=matrix.device)
    scales = torch.empty(matrix.shape[:-1], dtype=torch.float32, device=matrix.device)
    quantise_rows_into(matrix, codes, scales)
    return codes, scales


def quantise_rows_into(matrix: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
    """`quantise_rows` into given tensors, which may be views of larger ones."""
    if matrix.dim() > 2:
        for index in range(matrix.shape[0]):
            quantise_rows_into(matrix[index], codes[index], scales[index])
        return
    count = max(1, _PIECE // max(1, matrix.shape[-1]))
    for first in range(0, matrix.shape[0], count):
        rows = slice(first, first + count)
        values = matrix[rows].to(torch.float32)
        scale = (values.abs().amax(-1) / LARGEST).clamp_min(_SMALLEST_SCALE)
        # Conversion to e4m3 does not saturate by itself, and a quotient may round to just above the largest value.
        codes[rows] = (values / scale[:, None]).clamp_(-LARGEST, LARGEST).to(DTYPE)
        scales[rows] = scale


def dequantise(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """codes [..., out, in] with scales [..., out] (a row each) or [..., out/128, in/128] (a block each) -> [..., out, in].

    Block scales cover the last, partial block, too. The product is rounded once to `dtype`.
    """
    if scales.dim() == codes.dim() - 1:
        return (codes.to(torch.float32) * scales[..., None]).to(dtype)
    rows, columns = codes.shape[-2:]
    wide = scales.repeat_interleave(BLOCK, -2)[..., :rows, :].repeat_interleave(BLOCK, -1)[..., :columns]
    return (codes.to(torch.float32) * wide).to(dtype)


@dataclass(frozen=True)
class Fp8Matrix:
    """[out, in] in e4m3. Scales of square blocks are repeated for each row: then any cut of rows is as good as another."""

    codes: torch.Tensor  # [out, in] e4m3
    scales: torch.Tensor  # [out] float32, or [out, ceil(in / group)]
    group: int = 0  # columns that share a scale of a row; 0: all

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.codes.nbytes + self.scales.nbytes

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix [out, in], each value rounded once."""
        if self.group == 0:
            return dequantise(self.codes, self.scales, dtype)
        wide = self.scales.repeat_interleave(self.group, 1)[:, : self.codes.shape[1]]
        return (self.codes.to(torch.float32) * wide).to(dtype)
