"""4-bit weights: products of few tokens and dequantisation, against plain torch in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels import interpreter, rounding

from tokenwell.engine.kernels import int4
from tokenwell.engine.weights.quant.int4 import Int4Matrix, pack, span

rounding.correct()
interpreter.complete()


def matrix(gpu: torch.device, out: int, columns: int, group: int, zeros: bool, order: bool = False) -> Int4Matrix:
    groups = columns // group if group else 1
    codes = torch.randint(0, 16, (out, columns), device=gpu)
    return Int4Matrix(
        pack(codes, span(group, columns)),
        (torch.rand((out, groups), device=gpu) * 0.02 + 0.005).half(),
        torch.randint(0, 16, (out, groups), device=gpu).to(torch.uint8) if zeros else None,
        group,
        torch.randperm(columns, device=gpu) if order else None,
    )


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_products(gpu: torch.device, data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 2**31)))
    group, dtype = draw(st.sampled_from((0, 32, 64))), draw(st.sampled_from((torch.bfloat16, torch.float32)))
    activation, tokens, out = draw(st.sampled_from((None, "silu"))), draw(st.integers(1, 5)), draw(st.integers(1, 19))
    columns = draw(st.sampled_from((64, 192)))
    weight = matrix(gpu, 2 * out if activation else out, columns, group, draw(st.booleans()), draw(st.booleans()))
    arguments: dict[str, Any] = {"activation": activation}
    if draw(st.booleans()):
        arguments["bias"] = torch.randn(weight.codes.shape[0], device=gpu).to(dtype)
        arguments["residual"] = torch.randn((tokens, out), device=gpu).to(dtype)
    x = torch.randn((tokens, columns), device=gpu).to(dtype)
    assert int4.reason_not(x, weight) is None
    result, expected = int4.linear(x, weight, split=2, ahead=1, **arguments), int4.reference(x, weight, **arguments)
    assert (result.float() - expected).norm() < (1e-5 if dtype == torch.float32 else 6e-3) * (expected.norm() + 0.5)


@pytest.mark.parametrize("group", [0, 32, 128])
@pytest.mark.parametrize("zeros", [False, True])
def test_dequantise(gpu: torch.device, group: int, zeros: bool) -> None:
    weight = matrix(gpu, 5, 384, group, zeros)
    assert torch.equal(int4.dequantise(weight, 1, 4, torch.bfloat16), weight.dense(torch.bfloat16)[1:4])


def test_what_is_not_served() -> None:
    weight = matrix(torch.device("cpu"), 4, 48, 0, False)
    assert "spans of 16" in str(int4.reason_not(torch.zeros(1, 48), weight))
    assert "17 tokens" in str(int4.reason_not(torch.zeros(17, 48), weight))
