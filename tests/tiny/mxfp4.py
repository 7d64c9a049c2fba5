"""Random MXFP4 weights and their exact values, by the numpy arithmetic of the format's definition (OCP MX v1.0)."""

from __future__ import annotations

import numpy
import torch

# sign, two exponent bits with bias 1, one mantissa bit; exponent 0 is subnormal
_MAGNITUDES = [0.0, 0.5] + [2.0 ** (exponent - 1) * (1 + mantissa / 2) for exponent in (1, 2, 3) for mantissa in (0, 1)]


def random_mxfp4(
    shape: tuple[int, ...], generator: torch.Generator, exponents: tuple[int, int] = (121, 125)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blocks [..., K/32, 16] and scales [..., K/32] of random weights [..., K]; scale bytes lie in range(*exponents)."""
    *lead, width = shape
    blocks = torch.randint(0, 256, (*lead, width // 32, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(*exponents, (*lead, width // 32), generator=generator, dtype=torch.uint8)
    return blocks, scales


def values(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The float32 weights [..., K] that blocks and scales stand for, element by element."""
    packed = blocks.numpy()
    codes = numpy.stack([packed & 0x0F, packed >> 4], axis=-1).reshape(*packed.shape[:-1], 32)
    magnitudes = numpy.array(_MAGNITUDES, dtype=numpy.float64)[codes & 7]
    signed = numpy.where(codes & 8, -magnitudes, magnitudes)
    scaled = numpy.ldexp(signed, scales.numpy().astype(numpy.int32)[..., None] - 127)
    return torch.from_numpy(scaled.reshape(*packed.shape[:-2], 2 * packed.shape[-2] * packed.shape[-1])).to(torch.float32)
