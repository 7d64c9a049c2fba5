"""Linear maps of some tokens to few outputs, with all that is around them, against plain torch in float32."""

from __future__ import annotations

import pytest
import torch
from tests.engine.kernels import interpreter, rounding

from tokenwell.engine.kernels import narrow_linear

rounding.correct()
interpreter.complete()


def far(gpu: torch.device, dtype: torch.dtype, tokens: int, out: int, depth: int, activation: str) -> float:
    """Relative error of a product of random numbers."""
    x, times = torch.randn(tokens, depth + 8, device=gpu).to(dtype)[:, :depth], torch.randn(tokens, 3, out, device=gpu).to(dtype)
    weight = (torch.randn(out, depth, device=gpu) * depth**-0.5).to(dtype)
    expected = narrow_linear.reference(x, weight, activation=activation, times=times[:, 1])
    result = narrow_linear.linear(x, weight, activation=activation, times=times[:, 1])
    assert result.dtype == dtype
    assert result.shape == expected.shape
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("activation", ["gelu_tanh", "silu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_product(gpu: torch.device, dtype: torch.dtype, activation: str) -> None:
    assert far(gpu, dtype, 18, 20, 72, activation) < 5e-3


@pytest.mark.card
@pytest.mark.parametrize(("tokens", "out", "depth"), [(17, 128, 2816), (64, 256, 2560), (128, 32, 2880)])
def test_real_shapes(gpu: torch.device, tokens: int, out: int, depth: int) -> None:
    assert far(gpu, torch.bfloat16, tokens, out, depth, "gelu_tanh") < 5e-3


def test_what_it_refuses(gpu: torch.device) -> None:
    x, weight = torch.empty(20, 32, device=gpu).bfloat16(), torch.empty(40, 32, device=gpu).bfloat16()
    assert narrow_linear.reason_not(x, weight) is None
    assert narrow_linear.reason_not(x.expand(8, 20, 32).reshape(160, 32), weight) is not None
    assert narrow_linear.reason_not(x.float(), weight.float()) is not None
    assert narrow_linear.reason_not(x, weight.expand(20, 40, 32).reshape(800, 32)) is not None
