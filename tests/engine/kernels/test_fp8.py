"""8-bit floats: codes and scales of activations, and weights back to float dtypes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels import rounding

from tokenwell.engine.kernels import fp8
from tokenwell.engine.weights.quant.fp8 import Fp8Matrix, quantise_rows

rounding.correct()
FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@given(tokens=st.integers(0, 4), width=st.integers(1, 70), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 2**31))
@settings(max_examples=12, deadline=None)
def test_tokens(gpu: torch.device, tokens: int, width: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator(gpu).manual_seed(seed)
    x = (torch.randn((tokens, width + 3), device=gpu, generator=generator) * 7).to(dtype)[:, :width]
    codes, scale = fp8.quantise_tokens(x)
    expected, expected_scale = fp8.reference_quantise_tokens(x)
    assert torch.allclose(scale, expected_scale, rtol=1e-6)
    # A quotient may fall on the other side of the middle between two codes.
    assert torch.allclose(codes.float(), expected.float(), rtol=0.13)
    assert ((codes.float() * scale - x.float()).abs() <= x.float().abs() / 16 + scale / 500).all()


def test_rows_wider_than_a_program(gpu: torch.device) -> None:
    x = torch.randn((2, 40000), device=gpu)
    x[1] = 0
    codes, scale = fp8.quantise_tokens(x)
    expected, expected_scale = fp8.reference_quantise_tokens(x)
    assert torch.allclose(scale, expected_scale, rtol=1e-6)
    assert torch.allclose(codes.float(), expected.float(), rtol=0.13)
    assert not codes[1].float().any()


def test_numbers_that_are_very_small(gpu: torch.device) -> None:
    x = torch.randn((3, 50), device=gpu)
    codes, scale = fp8.quantise_tokens(x)
    others, other_scale = fp8.quantise_tokens(x * 2.0**-80)
    assert torch.equal(codes.float(), others.float())
    assert torch.equal(other_scale, scale * 2.0**-80)


@pytest.mark.parametrize("group", [0, 16, 128])
@pytest.mark.parametrize("dtype", FLOATS)
def test_dequantise(gpu: torch.device, group: int, dtype: torch.dtype) -> None:
    codes, scales = quantise_rows(torch.randn((5, 300), device=gpu))
    if group:
        scales = torch.rand((5, -(-300 // group)), device=gpu) + 0.1
    expected = Fp8Matrix(codes, scales, group).dense(dtype)
    assert torch.equal(fp8.dequantise(codes, scales, group, dtype), expected)
