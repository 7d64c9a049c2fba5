"""Logits under the soft cap against plain torch."""

from __future__ import annotations

import pytest
import torch
from tests.engine.kernels import rounding

from tokenwell.engine.kernels import logits

rounding.correct()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("softcap", [5.0, 30.0])
def test_capped(gpu: torch.device, dtype: torch.dtype, softcap: float) -> None:
    x = (torch.randn((3, 5000), device=gpu) * 8).to(dtype)
    result = logits.capped(x, softcap)
    assert result.dtype == torch.float32
    assert torch.allclose(result, logits.reference(x, softcap), rtol=1e-5, atol=1e-5)
    assert logits.capped(x[:0], softcap).shape == (0, 5000)


def test_small_logits_keep_their_digits(gpu: torch.device) -> None:
    x = torch.randn(5000, device=gpu) * torch.logspace(-12, 1, 5000, device=gpu)
    assert torch.allclose(logits.capped(x, 30.0), logits.reference(x, 30.0), rtol=2e-5, atol=0)
