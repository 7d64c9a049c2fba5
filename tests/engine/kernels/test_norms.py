"""Norms, sums and gated activations of accelerators against plain torch: a card where there is one, else Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels import rounding

from tokenwell.engine.kernels import embed, gated, norms, per_layer
from tokenwell.engine.kernels.codes import Codes

rounding.correct()
EXACT = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}  # of the largest number in a row: one rounding
DTYPES = list(EXACT)
EPS = 1e-6


def randn(gpu: torch.device, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=gpu).to(dtype)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None) -> None:
    limit = (EXACT[actual.dtype] if tolerance is None else tolerance) * max(1.0, expected.float().abs().max().item())
    assert actual.shape == expected.shape
    assert (actual.float() - expected.float()).abs().max().item() <= limit


def sizes(gpu: torch.device, small: list[tuple[int, int]], large: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return small if gpu.type == "cpu" else small + large


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(gpu: torch.device, dtype: torch.dtype) -> None:
    for tokens, dim in sizes(gpu, [(1, 16), (3, 33), (0, 8)], [(1, 8192), (700, 2880), (64, 4096)]):
        x, weight = randn(gpu, tokens, 2, dim, dtype=dtype), randn(gpu, dim, dtype=dtype)
        close(norms.rms_norm(x, weight, EPS), norms.reference_rms_norm(x, weight, EPS)) if tokens else None
        assert norms.rms_norm(x[:, 0], None, 0.1).shape == (tokens, dim)
        if tokens:
            close(norms.rms_norm(x[:, 0], None, 0.1), norms.reference_rms_norm(x[:, 0], None, 0.1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("outputs", [0, 1, 2])
def test_join(gpu: torch.device, dtype: torch.dtype, second: bool, outputs: int) -> None:
    for tokens, dim in sizes(gpu, [(2, 24)], [(1, 2816), (1000, 2560), (3, 8192)]):
        given = {
            "first_norm": outputs != 2,
            "first_weight": randn(gpu, dim, dtype=dtype) if outputs == 1 else None,
            "second": randn(gpu, tokens, 2 * dim, dtype=dtype)[:, dim:] if second else None,
            "second_norm": second,
            "second_weight": randn(gpu, dim, dtype=dtype) if second else None,
            "outer_weight": randn(gpu, dim, dtype=dtype) if second else None,
            "scalar": randn(gpu, 1, dtype=dtype) if outputs else None,
            "weights": tuple(randn(gpu, dim, dtype=dtype) for _ in range(outputs)),
        }
        x, y = randn(gpu, tokens, dim, dtype=dtype), randn(gpu, tokens, dim, dtype=dtype)
        total, normed = norms.join(x, y, EPS, **given)
        actual = (total, *normed)
        expected = norms.reference_join(x, y, EPS, **given)
        assert len(actual) == 1 + outputs
        for one, other in zip(actual, expected, strict=True):
            close(one, other, 2 * EXACT[dtype])


def test_join_of_nothing(gpu: torch.device) -> None:
    x = torch.empty((0, 16), device=gpu)
    assert norms.join(x, x, EPS, weights=(x.new_ones(16),))[1][0].shape == (0, 16)
    with pytest.raises(ValueError, match="at most twice"):
        norms.join(x, x, EPS, weights=(x.new_ones(16),) * 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantised_norm(gpu: torch.device, dtype: torch.dtype) -> None:
    for tokens, dim in sizes(gpu, [(3, 40)], [(300, 5376)]):
        x, weight = randn(gpu, tokens, dim, dtype=dtype) * 30, randn(gpu, dim, dtype=dtype)
        x[1] = 0
        made = norms.rms_norm_quantised(x, weight, EPS)
        expected = norms.reference_rms_norm(x, weight, EPS)
        assert made.codes.dtype == torch.float8_e4m3fn
        assert made.scale.shape == (tokens, 1)
        assert torch.allclose(made.scale[:, 0] * 448, expected.abs().amax(1).clamp(min=1e-10), rtol=1e-3)
        close(made.dense(), expected, 0.037)


def test_parts_are_added_on_the_way(gpu: torch.device) -> None:
    x, weight = randn(gpu, 3, 24, dtype=torch.bfloat16), randn(gpu, 24, dtype=torch.bfloat16)
    parts = randn(gpu, 3, 3, 48)
    given = {"first_norm": True, "first_weight": weight, "weights": (weight,)}
    first = parts[..., :24].contiguous()
    total, normed = norms.join(x, first, EPS, **given)
    for one, other in zip((total, *normed), norms.reference_join(x, first.sum(0), EPS, **given), strict=True):
        close(one, other, 2e-2)
    made, expected = gated.gated_quantised(parts, "silu").dense(), gated.reference_gated(parts.sum(0), "silu")
    close(made, expected, 0.037)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coded", [(True, True), (False, True), (True,)])
def test_join_in_eight_bits(gpu: torch.device, dtype: torch.dtype, coded: tuple[bool, ...]) -> None:
    x, y = randn(gpu, 3, 48, dtype=dtype), randn(gpu, 3, 48, dtype=dtype)
    weights = tuple(randn(gpu, 48, dtype=dtype) for _ in coded)
    total, normed = norms.join(x, y, EPS, weights=weights, coded=coded)
    expected, *others = norms.reference_join(x, y, EPS, weights=weights)
    close(total, expected)
    assert [isinstance(one, Codes) for one in normed] == list(coded)
    for one, other in zip(normed, others, strict=True):
        if isinstance(one, Codes):
            close(one.dense(), other, 0.037)
        else:
            close(one, other, 2 * EXACT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", gated.KINDS)
@pytest.mark.filterwarnings("ignore:overflow encountered")  # numpy's, where the interpreter saturates as a card does
def test_gated(gpu: torch.device, dtype: torch.dtype, kind: str) -> None:
    for tokens, width in sizes(gpu, [(2, 9), (1, 64)], [(5, 12288), (800, 10240)]):
        x = 4 * randn(gpu, tokens, 2 * width, dtype=dtype)
        expected = gated.reference_gated(x, kind)
        close(gated.gated(x, kind), expected)
        codes, scale = gated.gated_quantised(x, kind)
        close(codes.float() * scale, expected, 0.037)
        value = x[:, width:]
        close(per_layer.times(x[:, :width], value, kind), per_layer.reference_times(x[:, :width], value, kind))
    strange = torch.tensor([[-80.0, -1e4, 1e4, 0.0, 1.0, 1.0, 1.0, 1.0]], device=gpu)
    assert gated.gated(strange, kind)[0, 1:].tolist() == [0.0, 1e4, 0.0]
    assert gated.gated(strange.new_empty((0, 8)), kind).shape == (0, 4)
    assert gated.quantised_reason_not(10240) is None
    assert gated.quantised_reason_not(100_000) is not None


@pytest.mark.parametrize("width", [2048, 2049, 5000])
def test_many_quantised_rows_are_done_in_pieces(gpu: torch.device, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(gated, "_FEW", 1)
    x = randn(gpu, 2, 2 * width)
    codes, scale = gated.gated_quantised(x, "silu")
    expected = gated.reference_gated(x, "silu")
    assert torch.allclose(scale[:, 0] * 448, expected.abs().amax(1), rtol=1e-3)
    close(codes.float() * scale, expected, 0.037)


@pytest.mark.parametrize("dtype", DTYPES)
def test_per_layer_inputs(gpu: torch.device, dtype: torch.dtype) -> None:
    for tokens, layers, dim in [(3, 5, 16)] + ([(1, 42, 256), (70, 42, 256)] if gpu.type != "cpu" else []):
        table = randn(gpu, 50, layers * dim, dtype=dtype)
        context, weight = randn(gpu, tokens, layers * dim, dtype=dtype), randn(gpu, dim, dtype=dtype)
        ids = torch.randint(0, 50, (tokens,), device=gpu)
        expected = per_layer.reference_inputs(context, 0.1, table, 4.0, ids, weight, EPS)
        close(per_layer.inputs(context, 0.1, table, 4.0, ids, weight, EPS), expected)
        if gpu.type != "cpu":  # the same table on the host
            close(per_layer.inputs(context, 0.1, table.cpu().pin_memory(), 4.0, ids, weight, EPS), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_and_gate(gpu: torch.device, dtype: torch.dtype) -> None:
    for tokens, dim, width in [(2, 24, 10)] + ([(1, 2560, 256), (8, 1536, 256)] if gpu.type != "cpu" else []):
        x, y, norm = randn(gpu, tokens, dim, dtype=dtype), randn(gpu, tokens, dim, dtype=dtype), randn(gpu, dim, dtype=dtype)
        weight = randn(gpu, width, dim, dtype=dtype) * dim**-0.5
        given = randn(gpu, tokens, 3, width, dtype=dtype)[:, 1]
        total, out = per_layer.sum_and_gate(x, y, norm, EPS, weight, given, "gelu_tanh")
        expected, gate = per_layer.reference_sum_and_gate(x, y, norm, EPS, weight, given, "gelu_tanh")
        close(total, expected)
        close(out, gate, 4 * EXACT[dtype])  # sums of rounded numbers


@settings(max_examples=8)
@given(tokens=st.integers(0, 5), dim=st.integers(1, 70), media=st.booleans(), seed=st.integers(0, 99))
def test_embed(tokens: int, dim: int, media: bool, seed: int) -> None:
    gpu = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    table = randn(gpu, 9, dim, dtype=torch.bfloat16)
    ids = torch.randint(0, 9, (tokens,), device=gpu)
    strange = torch.tensor([3, 7], device=gpu) if media else None
    rows, shown = embed.embed(ids, table, 50.5, strange, 2)
    expected, looked_up = embed.reference_embed(ids, table, 50.5, strange, 2)
    assert torch.equal(shown, looked_up)
    assert torch.equal(rows, expected.to(torch.bfloat16))
