"""The three ways to compute a mixture of experts on an accelerator, each against plain torch with the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels import interpreter, rounding, subnormal

from tokenwell.engine.kernels import experts_few, experts_grouped, experts_many
from tokenwell.engine.kernels.experts_few import Tiling as FewTiling
from tokenwell.engine.kernels.experts_many import Tiling as ManyTiling
from tokenwell.engine.weights.experts import ExpertMatrix, empty_mxfp4
from tokenwell.engine.weights.quant import fp8

rounding.correct()
interpreter.complete()
subnormal.correct()

FORMATS = ("plain", "fp8", "mxfp4")
KINDS = ("silu", "gelu_tanh", "swiglu_clamped")
LIMIT = 1.5  # low enough that some values are clamped
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor, ExpertMatrix, ExpertMatrix, str]


def matrix(
    device: torch.device, kind: str, experts: int, rows: int, columns: int, bias: bool, dtype: torch.dtype
) -> ExpertMatrix:
    vector = torch.randn((experts, rows), device=device).to(dtype) if bias else None
    weight = torch.randn((experts, rows, columns), device=device) * columns**-0.5
    if kind == "plain":
        return ExpertMatrix(weight.to(dtype), None, vector)
    if kind == "fp8":
        return ExpertMatrix(*fp8.quantise_rows(weight), vector)
    made = empty_mxfp4(device, experts, rows, columns, vector)
    assert made.scales is not None
    made.codes.copy_(torch.randint(-(2**31), 2**31 - 1, made.codes.shape, dtype=torch.int32))
    made.scales[..., : columns // 32] = torch.randint(120, 126, (experts, rows, columns // 32), dtype=torch.uint8)
    return made


def case(
    device: torch.device, form: str, kind: str, dtype: torch.dtype, tokens: int, experts: int, top: int, dim: int, width: int
) -> Case:
    x = torch.randn((tokens, dim), device=device).to(dtype)
    chosen = torch.rand((tokens, experts), device=device).topk(top, -1).indices.to(torch.int32)
    share = torch.rand((tokens, top), device=device).softmax(-1)
    bias = kind == "swiglu_clamped"
    gate_up = matrix(device, form, experts, 2 * width, dim, bias, dtype)
    return x, chosen, share, gate_up, matrix(device, form, experts, dim, width, bias, dtype), kind


def gate(y: torch.Tensor, kind: str) -> torch.Tensor:
    first, value = y.chunk(2, -1)
    if kind == "silu":
        return functional.silu(first) * value
    if kind == "gelu_tanh":
        return functional.gelu(first, approximate="tanh") * value
    first, value = first.clamp(max=LIMIT), value.clamp(-LIMIT, LIMIT)
    return (value + 1) * first * torch.sigmoid(1.702 * first)


def through_fp8(x: torch.Tensor) -> torch.Tensor:
    """What a row of activations becomes in e4m3 with one scale."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-10) / fp8.LARGEST
    return (x / scale).clamp(-fp8.LARGEST, fp8.LARGEST).to(fp8.DTYPE).to(torch.float32) * scale


def reference(given: Case, *, quantised: bool = False, first: int = 0, products: torch.Tensor | None = None) -> torch.Tensor:
    """In float32, a slot at a time.

    `products` [slots, 2 * width]: what the first product gave; activations of it are not rounded before they are quantised.
    """
    x, chosen, share, gate_up, down, kind = given
    store: Callable[[torch.Tensor], torch.Tensor] = through_fp8 if quantised else lambda y: y
    weights = gate_up.dense(torch.float32), down.dense(torch.float32)
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for token in range(len(x)):
        for place in range(chosen.shape[1]):
            expert = int(chosen[token, place]) - first
            if not 0 <= expert < gate_up.experts:
                continue
            y = weights[0][expert] @ store(x[token].float())
            y = y if gate_up.bias is None else y + gate_up.bias[expert].float()
            if products is not None:
                y = products[token * chosen.shape[1] + place].float()
            hidden = gate(y, kind)
            y = weights[1][expert] @ store(hidden.to(x.dtype).float() if quantised and products is None else hidden)
            y = y if down.bias is None else y + down.bias[expert].float()
            out[token] += share[token, place] * y
    return out


def close(actual: torch.Tensor, expected: torch.Tensor, limit: float) -> None:
    assert actual.shape == expected.shape
    assert (actual.float() - expected).norm() <= limit * expected.norm() + 1e-6


LIMITS = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", list(LIMITS))
@pytest.mark.parametrize(("form", "kind"), list(zip(FORMATS, KINDS, strict=True)))
def test_few(gpu: torch.device, form: str, kind: str, dtype: torch.dtype) -> None:
    given = case(gpu, form, kind, dtype, tokens=2, experts=4, top=2, dim=64, width=32)
    tiles = FewTiling(16, 64, 1), FewTiling(32, 32, 1)
    close(experts_few.experts_few(*given, limit=LIMIT, tiles=tiles), reference(given), LIMITS[dtype])


@pytest.mark.parametrize(("form", "kind"), list(zip(FORMATS, KINDS, strict=True)))
def test_many(gpu: torch.device, form: str, kind: str) -> None:
    dtype = torch.float16 if form == "mxfp4" else torch.float32
    given = case(gpu, form, kind, dtype, tokens=9, experts=3, top=2, dim=160, width=64)
    tiles = ManyTiling(4, 32, 128, 1, 2), ManyTiling(16, 64, 128 if form == "mxfp4" else 32, 1, 2)
    actual = experts_many.experts_many(*given, limit=LIMIT, tiles=tiles, quantise=False)
    close(actual, reference(given), LIMITS[dtype])


def close_with_hidden_codes(given: Case, monkeypatch: pytest.MonkeyPatch, tiles: tuple[ManyTiling, ManyTiling] | None) -> None:
    """`experts_many` of e4m3 weights: each of its products agrees for what it was given, as in `close_in_codes`."""
    x, chosen, share, gate_up, down, kind = given
    taken: list[tuple[torch.Tensor, torch.Tensor]] = []  # (what was quantised, what became of it)
    original = experts_many.quantise_tokens

    def recorded(y: torch.Tensor) -> object:
        codes, scale = made = original(y)
        taken.append((y.clone(), codes.to(torch.float32) * scale.reshape(-1, 1)))
        return made

    monkeypatch.setattr(experts_many, "quantise_tokens", recorded)
    actual = experts_many.experts_many(*given, tiles=tiles, quantise=True)
    (_, inputs), (hidden, seen) = taken
    few, top = min(len(x), 8), chosen.shape[1]
    slots = chosen.flatten().long()
    places = slots.argsort(stable=True).argsort()[: few * top]  # in the order of experts
    first, second = (weight.dense(torch.float32)[slots[: len(places)]] for weight in (gate_up, down))
    products = (first @ inputs[:few].repeat_interleave(top, 0)[:, :, None])[:, :, 0]
    close(hidden[places], gate(products, kind), 1e-2)
    parts = (second @ seen[places][:, :, None])[:, :, 0].unflatten(0, (few, top))
    close(actual[:few], (parts * share[:few, :, None]).sum(1), 1e-2)


def test_many_with_activations_in_e4m3(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.bfloat16 if gpu.type == "cuda" else torch.float32
    given = case(gpu, "fp8", "silu", dtype, tokens=9, experts=3, top=2, dim=96, width=64)
    close_with_hidden_codes(given, monkeypatch, (ManyTiling(16, 64, 32, 4, 2),) * 2)


def multiply(x: torch.Tensor, scale: torch.Tensor | None, weight: ExpertMatrix, ends: torch.Tensor) -> torch.Tensor:
    """torch's grouped products, which a CPU lacks."""
    out = torch.zeros((len(x), weight.rows), device=x.device)
    wide = x.float() if scale is None else x.float() * scale[:, None]
    start = 0
    for end, matrix in zip(ends.tolist(), weight.dense(torch.float32), strict=True):
        out[start:end] = wide[start:end] @ matrix.T
        start = end
    return out.to(x.dtype if scale is None else torch.bfloat16)


def close_in_codes(given: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """`experts_grouped` of e4m3 weights: each of its products agrees for what it was given.

    From end to end they need not: of activations that are nearly the same some are rounded to the next code, 6 % away.
    """
    x, chosen, _, gate_up, *_ = given
    made: list[torch.Tensor] = []
    original = experts_grouped._multiply

    def recorded(*arguments: object) -> torch.Tensor:
        made.append(original(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(experts_grouped, "_multiply", recorded)
    actual = experts_grouped.experts_grouped(*given, limit=LIMIT)
    few = min(len(x), 8)
    slots = chosen.flatten().long()
    places = slots.argsort(stable=True).argsort()[: few * chosen.shape[1]]  # in the order of experts
    products = made[0][places]
    inputs = through_fp8(x[:few].float()).repeat_interleave(chosen.shape[1], 0)
    weights = gate_up.dense(torch.float32)[slots[: len(places)]]
    close(products, (weights @ inputs[:, :, None])[:, :, 0], 1e-2)
    checked: Case = (x[:few], chosen[:few], given[2][:few], *given[3:])
    close(actual[:few], reference(checked, quantised=True, products=products), 1e-2)


@pytest.mark.parametrize(("form", "kind"), list(zip(FORMATS, KINDS, strict=True)))
def test_grouped(gpu: torch.device, form: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.bfloat16
    if gpu.type == "cpu":
        monkeypatch.setattr(experts_grouped, "_multiply", multiply)
        dtype = torch.float32
    given = case(gpu, form, kind, dtype, tokens=9, experts=3, top=2, dim=96, width=64)
    if form == "fp8":
        close_in_codes(given, monkeypatch)
    else:
        close(experts_grouped.experts_grouped(*given, limit=LIMIT), reference(given), LIMITS[dtype])


@pytest.mark.parametrize("way", [experts_few.experts_few, experts_many.experts_many, experts_grouped.experts_grouped])
def test_only_the_experts_of_this_rank_and_a_residual(
    gpu: torch.device, way: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu.type == "cpu":
        monkeypatch.setattr(experts_grouped, "_multiply", multiply)
    dtype = torch.bfloat16 if gpu.type == "cuda" else torch.float32
    x, chosen, share, gate_up, down, kind = case(gpu, "plain", "swiglu_clamped", dtype, 4, 6, 2, 32, 32)

    def part(weight: ExpertMatrix, first: int, last: int) -> ExpertMatrix:
        assert weight.bias is not None
        return ExpertMatrix(weight.codes[first:last].contiguous(), None, weight.bias[first:last].contiguous())

    residual = torch.randn_like(x)
    total = torch.zeros(x.shape, device=gpu)
    for first, last, plus in ((0, 2, residual), (2, 6, None)):
        mine = x, chosen, share, part(gate_up, first, last), part(down, first, last), kind
        actual = way(*mine, limit=LIMIT, first=first, residual=plus)
        close(actual, reference(mine, first=first) + (0 if plus is None else plus.float()), LIMITS[dtype])
        total += actual.float()
    close(total, reference((x, chosen, share, gate_up, down, kind)) + residual.float(), LIMITS[dtype])


@settings(max_examples=15, deadline=None)
@given(
    tokens=st.integers(1, 40), top=st.integers(1, 3), experts=st.integers(3, 7), first=st.integers(0, 2), seed=st.integers(0, 99)
)
def test_sort(gpu: torch.device, tokens: int, top: int, experts: int, first: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand((tokens, experts), generator=generator).topk(top, -1).indices.to(gpu, torch.int32)
    places = torch.full((tokens * top,), -1, dtype=torch.int32, device=gpu)
    order, starts = experts_many.sort(chosen, experts - first, first, places)
    flat = chosen.flatten().cpu()
    expected = [slot for expert in range(first, experts) for slot in range(len(flat)) if flat[slot] == expert]
    assert starts.tolist() == [int(((flat >= first) & (flat < expert)).sum()) for expert in range(first, experts + 1)]
    assert order.tolist() == expected + [0] * (len(flat) - len(expected))
    assert [int(places[slot]) for slot in expected] == list(range(len(expected)))


@pytest.mark.parametrize("dtype", list(LIMITS))
def test_mxfp4_written_out(gpu: torch.device, dtype: torch.dtype) -> None:
    weight = matrix(gpu, "mxfp4", 2, 5, 320, False, dtype)
    assert weight.scales is not None
    weight.scales[0, 0, :3] = torch.tensor([1, 150, 126], dtype=torch.uint8)
    assert torch.equal(experts_grouped.write_out(weight, torch.float32), weight.dense(torch.float32))
    weight.scales[0, 0, :3] = 127
    assert torch.equal(experts_grouped.write_out(weight, dtype), weight.dense(dtype))


@pytest.mark.card
@pytest.mark.parametrize(
    ("form", "kind", "experts", "top", "dim", "width"),
    [
        ("mxfp4", "swiglu_clamped", 32, 4, 2880, 2880),
        ("fp8", "gelu_tanh", 128, 8, 2816, 704),
        ("plain", "silu", 64, 8, 2048, 768),
    ],
)
@pytest.mark.parametrize("tokens", [1, 2, 64, 700])
def test_real_shapes(
    gpu: torch.device, form: str, kind: str, experts: int, top: int, dim: int, width: int, tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = case(gpu, form, kind, torch.bfloat16, tokens, experts, top, dim, width)
    checked: Case = (given[0][:8], given[1][:8], given[2][:8], *given[3:])
    plain = reference(checked)
    if tokens <= 2:
        close(experts_few.experts_few(*given, limit=LIMIT), plain, 1e-2)
    if form == "fp8":
        close_with_hidden_codes(given, monkeypatch, None)
    else:
        close(experts_many.experts_many(*given, limit=LIMIT)[:8], plain, 1e-2)
    if tokens >= 64 and form == "fp8":
        close_in_codes(given, monkeypatch)
    elif tokens >= 64:
        close(experts_grouped.experts_grouped(*given, limit=LIMIT)[:8], plain, 1e-2)
