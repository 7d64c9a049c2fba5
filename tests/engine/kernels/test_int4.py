"""4-bit weights: products of few tokens and dequantisation, against plain torch in float32."""

from __future__ import annotations

import os
import subprocess
import sys
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
    group, dtype = draw(st.sampled_from((0, 32, 64, 96))), draw(st.sampled_from((torch.bfloat16, torch.float32)))
    activation, tokens, out = draw(st.sampled_from((None, "silu"))), draw(st.integers(1, 5)), draw(st.integers(1, 19))
    columns = 192 if group == 96 else draw(st.sampled_from((64, 192)))
    weight = matrix(gpu, 2 * out if activation else out, columns, group, draw(st.booleans()), draw(st.booleans()))
    arguments: dict[str, Any] = {"activation": activation}
    if draw(st.booleans()):
        arguments["bias"] = torch.randn(weight.codes.shape[0], device=gpu).to(dtype)
        arguments["residual"] = torch.randn((tokens, out), device=gpu).to(dtype)
    x = torch.randn((tokens, columns), device=gpu).to(dtype)
    assert int4.reason_not(x, weight) is None
    result, expected = int4.linear(x, weight, split=2, ahead=1, **arguments), int4.reference(x, weight, **arguments)
    assert (result.float() - expected).norm() < (1e-5 if dtype == torch.float32 else 6e-3) * (expected.norm() + 0.5)


# Columns a step: 2 spans. 24 tiles are the most that is unrolled; with a gate a step has two.
@pytest.mark.parametrize(
    ("columns", "group", "activation", "tokens", "ahead", "rolled", "dtype"),
    [
        (1536, 32, None, 16, 3, 0, torch.bfloat16),  # 24 steps
        (1600, 32, None, 1, 3, 20, torch.bfloat16),  # 25: 5 rounds of 4, 5 steps after them
        (1760, 32, None, 3, 3, 20, torch.float32),  # 27.5
        (1888, 32, None, 16, 1, 26, torch.float16),  # 29.5: rounds of 2
        (768, 32, "silu", 3, 3, 0, torch.float32),  # 12 steps
        (800, 32, "gelu_tanh", 1, 3, 10, torch.float16),  # 12.5: rounds of 2, for 2 tiles each
        (2496, 64, "silu", 16, 1, 18, torch.float32),  # 19.5: rounds of 1
        (3424, 0, None, 3, 3, 48, torch.bfloat16),  # 53.5; one group of all columns
        (6528, 128, None, 1, 3, 20, torch.float32),  # 25.5
    ],
)
def test_deep_products(
    gpu: torch.device,
    columns: int,
    group: int,
    activation: str | None,
    tokens: int,
    ahead: int,
    rolled: int,
    dtype: torch.dtype,
) -> None:
    width, lines = span(group, columns), 2 if activation else 1
    assert int4._ahead(columns, 2 * width, lines, ahead)[1] == rolled
    torch.manual_seed(columns)
    weight = matrix(gpu, 5 * lines, columns, group, tokens != 3)
    arguments: dict[str, Any] = {
        "activation": activation,
        "bias": torch.randn(5 * lines, device=gpu).to(dtype) if tokens > 1 else None,
        "residual": torch.randn((tokens, 5), device=gpu).to(dtype) if tokens < 16 else None,
    }
    x = torch.randn((tokens, columns), device=gpu).to(dtype)
    result, expected = int4.linear(x, weight, split=2, ahead=ahead, **arguments), int4.reference(x, weight, **arguments)
    assert (result.float() - expected).norm() < (1e-5 if dtype == torch.float32 else 6e-3) * expected.norm()


@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_on_a_card_with_wide_products(gpu: torch.device, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    interpreter.be_battlemage(monkeypatch)
    weight, x = matrix(gpu, 10, 192, 32, zeros=True), torch.randn((tokens, 192), device=gpu).bfloat16()
    result, expected = int4.linear(x, weight), int4.reference(x, weight)
    assert (result.float() - expected).norm() < 6e-3 * expected.norm()


@pytest.mark.parametrize("lines", [1, 2])
def test_rounds_end_before_the_tiles_do(lines: int) -> None:
    """A round asks for whole tiles without a mask, as many as it has steps: they may not pass the last column."""
    for steps in range(1, 200):
        for wanted in range(1, 40):
            ahead, rolled = int4._ahead(steps * 128 + 96, 128, lines, wanted)
            assert 0 <= ahead <= wanted and rolled % (ahead + 1) == 0
            assert rolled == 0 or 0 < rolled <= steps - (ahead + 1)


def test_a_wide_layer_compiles_for_hopper() -> None:
    """In a process of its own: Triton's interpreter cannot be left once it is on."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.engine.kernels.compile_int4"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("group", [0, 32, 128])
@pytest.mark.parametrize("zeros", [False, True])
def test_dequantise(gpu: torch.device, group: int, zeros: bool) -> None:
    weight = matrix(gpu, 5, 384, group, zeros)
    assert torch.equal(int4.dequantise(weight, 1, 4, torch.bfloat16), weight.dense(torch.bfloat16)[1:4])


def test_what_is_not_served() -> None:
    weight = matrix(torch.device("cpu"), 4, 48, 0, False)
    assert "spans of 16" in str(int4.reason_not(torch.zeros(1, 48), weight))
    assert "17 tokens" in str(int4.reason_not(torch.zeros(17, 48), weight))
