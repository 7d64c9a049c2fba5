"""Linear maps of some tokens to few outputs, with all that is around them, against plain torch in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.kernels import interpreter, rounding

from tokenwell.engine.kernels import narrow_linear

rounding.correct()
interpreter.complete()


def far(gpu: torch.device, dtype: torch.dtype, tokens: int, out: int, depth: int, around: str) -> float:
    """Relative error of a product of random numbers."""
    x, times = torch.randn(tokens, depth + 8, device=gpu).to(dtype)[:, :depth], torch.randn(tokens, 3, out, device=gpu).to(dtype)
    weight = (torch.randn(out, depth, device=gpu) * depth**-0.5).to(dtype)
    given: dict[str, Any] = {
        "nothing": {},
        "gate": {"activation": "gelu_tanh", "times": times[:, 1]},
        "silu": {"activation": "silu"},
        "router": {"norm": (torch.rand(depth, device=gpu).to(dtype) + 0.5, 1e-5), "bias": torch.randn(out, device=gpu).to(dtype)},
        "norm": {"norm": (None, 1e-5)},
    }[around]
    expected = narrow_linear.reference(x, weight, **given)
    result = narrow_linear.linear(x, weight, dtype=torch.float32, **given)
    assert result.dtype == torch.float32
    assert result.shape == expected.shape
    return float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("around", ["nothing", "gate", "silu", "router", "norm"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_product(gpu: torch.device, dtype: torch.dtype, around: str) -> None:
    assert far(gpu, dtype, 18, 20, 72, around) < 5e-3


@pytest.mark.card
@pytest.mark.parametrize("around", ["gate", "router"])
@pytest.mark.parametrize(("tokens", "out", "depth"), [(17, 128, 2816), (64, 256, 2560), (128, 32, 2880)])
def test_real_shapes(gpu: torch.device, tokens: int, out: int, depth: int, around: str) -> None:
    assert far(gpu, torch.bfloat16, tokens, out, depth, around) < 5e-3


def test_what_it_refuses(gpu: torch.device) -> None:
    x, weight = torch.empty(20, 32, device=gpu).bfloat16(), torch.empty(40, 32, device=gpu).bfloat16()
    assert narrow_linear.reason_not(x, weight) is None
    assert narrow_linear.reason_not(x.expand(8, 20, 32).reshape(160, 32), weight) is not None
    assert narrow_linear.reason_not(x.float(), weight.float()) is not None
    assert narrow_linear.reason_not(x, weight.expand(20, 40, 32).reshape(800, 32)) is not None
