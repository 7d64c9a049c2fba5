"""Linear maps of some tokens in e4m3, against the same codes and scales in float32."""

from __future__ import annotations

import pytest
import torch
from tests.engine.kernels import interpreter, rounding

from tokenwell.engine.kernels import fp8_linear
from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.kernels.fp8 import reference_quantise_tokens
from tokenwell.engine.kernels.fp8_linear import Tiling
from tokenwell.engine.weights.quant import fp8

rounding.correct()
interpreter.complete()


def far(gpu: torch.device, tokens: int, out: int, depth: int, bias: bool, tiles: Tiling | None) -> float:
    """Relative error of a product of random numbers."""
    x = reference_quantise_tokens(torch.randn(tokens, depth, device=gpu))
    weight, scales = fp8.quantise_rows(torch.randn(out, depth, device=gpu) * depth**-0.5)
    added = torch.randn(out, device=gpu) if bias else None
    expected = fp8_linear.reference(x, weight, scales, bias=added)
    result = fp8_linear.linear(x, weight, scales, bias=added, tiles=tiles)
    assert result.dtype == torch.bfloat16
    parts = fp8_linear.linear(x, weight, scales, bias=added, tiles=tiles, in_parts=True)
    assert torch.allclose((parts if parts.dim() == 2 else parts.sum(0)).float(), result.float(), rtol=1e-2, atol=1e-2)
    return float((result.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize(("tokens", "out", "depth"), [(2, 64, 96), (5, 80, 176), (18, 33, 128)])
def test_the_product(gpu: torch.device, tokens: int, out: int, depth: int, parts: int, bias: bool) -> None:
    assert far(gpu, tokens, out, depth, bias, Tiling(64, 32, parts, 4, 2)) < 4e-3


@pytest.mark.card
@pytest.mark.parametrize("tokens", [2, 9, 33, 64, 128])
@pytest.mark.parametrize(("out", "depth"), [(8192, 2816), (2816, 2112), (20480, 2560), (2560, 10240), (4224, 2816), (2816, 8192)])
def test_real_shapes(gpu: torch.device, tokens: int, out: int, depth: int) -> None:
    assert far(gpu, tokens, out, depth, False, None) < 5e-3


def test_what_it_refuses(gpu: torch.device) -> None:
    weight = torch.zeros(32, 64, device=gpu).to(torch.float8_e4m3fn)
    assert fp8_linear.reason_not(Codes.empty(2, 64, gpu), weight) is None
    assert fp8_linear.reason_not(Codes.empty(1, 64, gpu), weight) is not None
    assert fp8_linear.reason_not(Codes.empty(129, 64, gpu), weight) is not None
    assert fp8_linear.reason_not(Codes.empty(2, 24, gpu), weight[:, :24]) is not None
