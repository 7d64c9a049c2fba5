"""Linear maps of few tokens: every format and everything that is fused, against plain torch in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels import interpreter, rounding

from tokenwell.engine.kernels import gemv
from tokenwell.engine.kernels.gemv import Tiling
from tokenwell.engine.weights.quant import fp8

rounding.correct()
interpreter.complete()

HALVES = (torch.bfloat16, torch.float16)
SMALL_ONE = Tiling(rows=2, columns=32, warps=1, ahead=2)
SMALL_UNITS = Tiling(rows=16, columns=16, warps=1, ahead=1, split=2)
FEW = settings(max_examples=12, deadline=None)


def far(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error of the whole, whose elements are of the order of one."""
    return float((result.float() - expected.float()).norm() / expected.float().norm().clamp_min(0.1))


def case(
    gpu: torch.device, draw: Any, tokens: int, dtypes: tuple[torch.dtype, ...]
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """x, weight and arguments of fresh random values; sizes are tiny for the interpreter."""
    generator = torch.Generator(gpu).manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, device=gpu, generator=generator).to(dtype)

    dtype = draw(st.sampled_from(dtypes))
    depth, out = draw(st.sampled_from((32, 48, 80, 96))), draw(st.integers(1, 21))
    activation = draw(st.sampled_from((None, "silu", "gelu_tanh")))
    lines = 2 * out if activation else out
    weight = (normal(lines, depth) * depth**-0.5).to(dtype)  # so that results are of the order of one
    arguments: dict[str, Any] = {"activation": activation}
    form = draw(st.sampled_from(("plain", "rows", "groups")))
    if form != "plain":
        weight, arguments["scales"] = fp8.quantise_rows(weight)
        if form == "groups":
            arguments["group"] = 16
            arguments["scales"] = normal(lines, -(-depth // 16)).abs() / 1000 + 0.001
    if draw(st.booleans()):
        arguments["bias"] = normal(lines, dtype=dtype)
    if draw(st.booleans()):
        arguments["residual"] = normal(tokens, 2 * out, dtype=dtype)[:, :out]
    if draw(st.booleans()):
        arguments["softcap"] = 5.0
    return normal(tokens, depth + 16, dtype=dtype)[:, :depth], weight, arguments


def tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 6e-3


@given(st.data())
@FEW
def test_one_token(gpu: torch.device, data: st.DataObject) -> None:
    x, weight, arguments = case(gpu, data.draw, 1, (*HALVES, torch.float32))
    norm = data.draw(st.sampled_from(("none", "plain", "weighted")))
    if norm != "none":
        factors = torch.rand(x.shape[1], device=gpu).to(x.dtype) + 0.5 if norm == "weighted" else None
        arguments["norm"] = (factors, 1e-5)
    result = gemv.linear(x, weight, tiles=SMALL_ONE, **arguments)
    assert result.dtype == x.dtype
    assert far(result, gemv.reference(x, weight, **arguments)) < tolerance(x.dtype)


@given(st.data())
@FEW
def test_several_tokens(gpu: torch.device, data: st.DataObject) -> None:
    x, weight, arguments = case(gpu, data.draw, data.draw(st.integers(2, gemv.MOST_TOKENS)), HALVES)
    result = gemv.linear(x, weight, tiles=SMALL_UNITS, dtype=torch.float32, **arguments)
    assert result.dtype == torch.float32
    assert far(result, gemv.reference(x, weight, **arguments)) < tolerance(x.dtype)


@pytest.mark.parametrize("tokens", [2, 8, 16])
def test_on_a_card_with_wide_products(gpu: torch.device, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    interpreter.be_battlemage(monkeypatch)
    x, weight = torch.randn(tokens, 128, device=gpu).bfloat16(), torch.randn(12, 128, device=gpu).bfloat16()
    for matrix, arguments in ((weight, {}), (fp8.quantise_rows(weight)[0], {"scales": torch.rand(12, device=gpu)})):
        assert far(gemv.linear(x, matrix, **arguments), gemv.reference(x, matrix, **arguments)) < 4e-3


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize(("depth", "group"), [(128, 0), (256, 128), (320, 0), (384, 128)])
def test_the_chosen_tiling(gpu: torch.device, tokens: int, depth: int, group: int) -> None:
    """What is launched without a tiling of the test's own, with a depth that it does not divide."""
    x, weight = torch.randn(tokens, depth, device=gpu).bfloat16(), torch.randn(6, depth, device=gpu).bfloat16()
    arguments: dict[str, Any] = {}
    if group:
        weight, _ = fp8.quantise_rows(weight)
        arguments = {"scales": torch.rand(6, -(-depth // group), device=gpu), "group": group}
    assert far(gemv.linear(x, weight, **arguments), gemv.reference(x, weight, **arguments)) < 4e-3


def test_what_is_not_served() -> None:
    x, weight = torch.randn(2, 32, dtype=torch.bfloat16), torch.randn(4, 32, dtype=torch.bfloat16)
    assert gemv.reason_not(x, weight) is None
    assert "17 tokens" in str(gemv.reason_not(x[:1].expand(17, -1), weight))
    assert "float32" in str(gemv.reason_not(x, weight.float()))
    assert "contiguous" in str(gemv.reason_not(x, weight[:, :16]))
    assert "take no float32" in str(gemv.reason_not(x.float(), weight.float()))
    assert "power of two" in str(gemv.reason_not(x, fp8.quantise_rows(weight)[0], group=48))


@pytest.mark.card
@pytest.mark.parametrize("tokens", [1, 2, 8, 16])
@pytest.mark.parametrize("shape", [(24576, 4096), (5120, 2880), (4096, 12288), (2816, 704)])
@pytest.mark.parametrize("form", ["plain", "rows", "groups"])
def test_large(gpu: torch.device, tokens: int, shape: tuple[int, int], form: str) -> None:
    x, weight = torch.randn(tokens, shape[1], device=gpu).bfloat16(), torch.randn(shape, device=gpu).bfloat16()
    arguments: dict[str, Any] = {"activation": "silu"}
    if form != "plain":
        weight, arguments["scales"] = fp8.quantise_rows(weight)
        if form == "groups":
            arguments |= {"scales": torch.rand(shape[0], -(-shape[1] // 128), device=gpu), "group": 128}
    assert far(gemv.linear(x, weight, **arguments), gemv.reference(x, weight, **arguments)) < 4e-3
