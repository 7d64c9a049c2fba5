"""Linear maps in every format: few and many tokens, with what stands around them, against the same numbers in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from tests.engine.kernels import interpreter, rounding
from tests.tiny.write import write_checkpoint

from tokenwell.checkpoint.recipe import read_recipe
from tokenwell.engine.kernels import fp8 as fp8_kernels
from tokenwell.engine.kernels import fp8_linear
from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.layers import quantised
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.embedding import Embedding, Head
from tokenwell.engine.layers.linear import FEW_TOKENS, Around, Linear, PlainWeight, Split, Weight, even_part
from tokenwell.engine.layers.mlp import Mlp
from tokenwell.engine.layers.norm import RmsNorm, Stream
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.quant import fp8, int4
from tokenwell.engine.weights.quant.fp8 import Fp8Matrix
from tokenwell.engine.weights.quant.int4 import Int4Matrix
from tokenwell.engine.weights.source import Source

rounding.correct()
interpreter.complete()

OUT, DEPTH = 32, 64
FORMS = ("plain", "rows", "groups", "int4", "int4 ordered")


@pytest.fixture
def kernels(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device whose layers use kernels."""
    if gpu.type == "cpu":
        monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device: None)
    return gpu


def make(form: str, rows: int, device: torch.device, dtype: torch.dtype) -> tuple[Weight, torch.Tensor]:
    """A weight [rows, DEPTH] and the numbers that it stands for, in float32."""
    values = (torch.randn(rows, DEPTH, device=device) * DEPTH**-0.5).to(dtype)
    if form == "plain":
        return PlainWeight(values), values.float()
    matrix: Fp8Matrix | Int4Matrix
    if form == "rows":
        matrix = Fp8Matrix(*fp8.quantise_rows(values))
    elif form == "groups":
        matrix = Fp8Matrix(fp8.quantise_rows(values)[0], torch.rand(rows, DEPTH // 32, device=device) * 1e-3 + 1e-4, 32)
    else:
        codes = torch.randint(0, 16, (rows, DEPTH), device=device)
        scales, zeros = torch.rand(rows, 2, device=device) * 0.05, torch.randint(0, 16, (rows, 2), device=device)
        order = torch.randperm(DEPTH, device=device) if form == "int4 ordered" else None
        matrix = Int4Matrix(int4.pack(codes, 32), scales.to(dtype), zeros.to(torch.uint8), 32, order)
    return quantised.weight(matrix), matrix.dense(torch.float32)


def far(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error."""
    return float((result.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_stands_around(kernels: torch.device, form: str, tokens: int, dtype: torch.dtype) -> None:
    weight, values = make(form, 2 * OUT, kernels, dtype)
    bias = torch.randn(2 * OUT, device=kernels).to(dtype)
    norm = RmsNorm(torch.rand(DEPTH, device=kernels).to(dtype) + 0.5, DEPTH, 1e-5)
    x, plus = torch.randn(tokens, DEPTH, device=kernels).to(dtype), torch.randn(tokens, OUT, device=kernels).to(dtype)
    linear = Linear(weight, bias, Ranks())
    # Several tokens are held in 8 bits on cards with units for it: three bits behind the point.
    units = form == "rows" and tokens > 1 and dtype == torch.bfloat16 and accelerator.fp8_units(kernels)
    assert linear.fuses(x) == (tokens <= 16 and not units)
    given = functional.rms_norm(x.float(), (DEPTH,), norm.weight.float(), 1e-5)
    gate, value = functional.linear(given, values, bias.float()).chunk(2, dim=-1)
    result = linear(x, before=norm, after=Gated("silu"), plus=plus)
    assert result.dtype == dtype
    tolerance = 3e-2 if units else 1e-5 if dtype == torch.float32 else 8e-3
    assert far(result, functional.silu(gate) * value + plus.float()) < tolerance


@pytest.mark.parametrize("form", FORMS)
def test_alone(kernels: torch.device, form: str) -> None:
    weight, values = make(form, OUT, kernels, torch.float32)
    for tokens in (1, 2, 17):
        x = torch.randn(tokens, DEPTH, device=kernels)
        assert far(Linear(weight, None, Ranks())(x), x @ values.T) < 1e-5
    assert weight.nbytes > 0


@pytest.mark.parametrize("form", ["rows", "groups", "int4 ordered"])
def test_in_slices(kernels: torch.device, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(quantised, "_SLICE", 12 * DEPTH)
    weight, values = make(form, OUT, kernels, torch.float32)
    x, bias = torch.randn(20, DEPTH, device=kernels), torch.randn(OUT, device=kernels)
    assert far(weight.apply(x, bias), x @ values.T + bias) < 1e-5


@pytest.fixture
def units(kernels: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device that multiplies e4m3, too."""
    if kernels.type == "cpu":

        def product(
            a: torch.Tensor, b: torch.Tensor, *, scale_a: torch.Tensor, scale_b: torch.Tensor, **rest: object
        ) -> torch.Tensor:
            y = (a.float() * scale_a) @ (b.float() * scale_b)
            return (y if rest["bias"] is None else y + rest["bias"].float()).to(rest["out_dtype"])  # type: ignore[attr-defined,call-overload]

        monkeypatch.setattr(accelerator, "fp8_units", lambda device: True)
        monkeypatch.setattr(torch, "_scaled_mm", product)
    monkeypatch.setattr(fp8_linear, "MOST_TOKENS", 4)  # more are multiplied by torch
    return kernels


@pytest.mark.parametrize("tokens", [2, 6])
def test_activations_in_eight_bits(units: torch.device, tokens: int) -> None:
    """The same numbers as with codes and scales of activations that are multiplied in float32."""
    kernels = units
    weight, values = make("rows", OUT, kernels, torch.bfloat16)
    x, bias = torch.randn(tokens, 2 * DEPTH, device=kernels).bfloat16(), torch.randn(OUT, device=kernels).bfloat16()
    norm = RmsNorm(torch.rand(DEPTH, device=kernels).bfloat16() + 0.5, DEPTH, 1e-5)
    for before, given in (
        (None, x[:, :DEPTH].float()),
        (norm, functional.rms_norm(x[:, :DEPTH].float(), (DEPTH,), norm.weight.float(), 1e-5)),
        (Gated("silu"), functional.silu(x[:, :DEPTH].float()) * x[:, DEPTH:].float()),
    ):
        scale = given.abs().amax(-1, keepdim=True) / 448
        rounded = (given / scale).to(torch.float8_e4m3fn).float() * scale
        result = weight.apply(x if isinstance(before, Gated) else x[:, :DEPTH], bias, before)
        assert far(result, rounded @ values.T + bias.float()) < 1e-2


@pytest.mark.parametrize("tokens", [2, 6])
def test_a_block_whose_products_hand_over_codes_and_parts(
    units: torch.device, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.setattr(fp8_linear, "tiling", lambda *sizes: fp8_linear.Tiling(64, 32, 2, 4, 2))
    (gate_up, first), (down, second) = make("rows", 2 * DEPTH, units, torch.bfloat16), make("rows", OUT, units, torch.bfloat16)
    block = Mlp(Linear(gate_up, None, Ranks()), Linear(down, None, Ranks()), Gated("silu"))
    x, plus = torch.randn(tokens, DEPTH, device=units).bfloat16(), torch.randn(tokens, OUT, device=units).bfloat16()
    gate, value = (x.float() @ first.T).chunk(2, -1)
    expected = (functional.silu(gate) * value) @ second.T
    assert block.gate_up.takes_codes(x)
    assert not block.gate_up.takes_codes(x[:1])
    parts = block.in_parts(x)
    assert parts.dim() == (3 if tokens == 2 else 2)
    assert far(parts if tokens != 2 else parts.sum(0), expected) < 6e-2
    assert far(block(x), expected) < 6e-2
    one = RmsNorm(torch.ones(OUT, device=units).bfloat16(), OUT, 1e-6)
    for coded in (False, True):
        total, normed = block.onto(Stream(plus, x), one, one, coded=coded)
        assert far(total, expected + plus.float()) < 6e-2
        assert isinstance(normed, Codes) == coded
        assert far(normed.dense() if isinstance(normed, Codes) else normed, one(total).float()) < 6e-2  # type: ignore[union-attr]
    assert far(block(fp8_kernels.quantise_tokens(x)), expected) < 6e-2


def test_head(kernels: torch.device) -> None:
    embedding = Embedding(torch.randn(50, DEPTH, device=kernels).bfloat16())
    for softcap in (10.0, None):
        head = Head(PlainWeight(embedding.table), Ranks(), split=False, softcap=softcap)
        for rows in (1, 4, 20):
            hidden = torch.randn(rows, DEPTH, device=kernels).bfloat16()
            logits = head(hidden)
            expected = hidden.float() @ embedding.table.float().T
            assert logits.dtype == (torch.bfloat16 if softcap is None and rows > FEW_TOKENS else torch.float32)
            assert far(logits, expected if softcap is None else 10.0 * torch.tanh(expected / 10.0)) < 5e-3


def test_a_bias_and_a_residual_are_added_by_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    x, plus = torch.randn(3, DEPTH), torch.randn(3, OUT)
    weight, values = make("plain", OUT, torch.device("cpu"), torch.float32)
    monkeypatch.setattr(Ranks, "all_reduce", lambda self, y: y)
    parts = [Linear(weight, None, Ranks(rank, 2), reduce=True)(x, plus=plus) for rank in range(2)]
    assert torch.allclose(parts[0] + parts[1], 2 * x @ values.T + plus, atol=1e-5)


@pytest.mark.parametrize("split", ["column", "row"])
def test_loaded_from_eight_bits_over_ranks(tmp_path: Path, split: Split) -> None:
    """The ranks' results together are those of the numbers that the checkpoint stands for."""
    values, tensors = {}, {}
    for name in ("q", "k"):
        codes, scales = fp8.quantise_rows(torch.randn(OUT, DEPTH))
        tensors |= {f"{name}.weight": codes, f"{name}.weight_scale": scales[:, None], f"{name}.bias": torch.randn(OUT)}
        values[name] = fp8.dequantise(codes, scales, torch.float32)
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, tensors, {"quantization_config": {"quant_method": "fp8"}}))
    x = torch.randn(2, DEPTH)
    results, fused = [], []
    for rank in range(2):
        ranks = Ranks(rank, 2)
        recipe = read_recipe(checkpoint.config)
        source = Source(checkpoint, torch.device("cpu"), torch.float32, rank, 2, recipe)
        linear = Linear.load(source, ranks, "q", DEPTH, OUT, bias=True, split=split)
        linear.reduce = False
        results.append(linear(x.chunk(2, dim=1)[rank] if split == "row" else x))
        parts = [even_part("q", OUT, ranks), even_part("k", OUT, ranks)]
        fused.append(Linear.load_fused(source, ranks, parts, DEPTH, bias=True)(x))
        assert source.finish()
    expected = {name: x @ values[name].T + tensors[f"{name}.bias"] for name in values}
    together = results[0] + results[1] if split == "row" else torch.cat(results, -1)
    assert torch.allclose(together, expected["q"], atol=1e-4)
    halves = [torch.cat([expected["q"].chunk(2, -1)[rank], expected["k"].chunk(2, -1)[rank]], -1) for rank in range(2)]
    assert all(torch.allclose(mine, half, atol=1e-4) for mine, half in zip(fused, halves, strict=True))


def test_nothing_is_fused_on_the_cpu() -> None:
    weight, values = make("plain", 2 * OUT, torch.device("cpu"), torch.float32)
    x = torch.randn(2, DEPTH)
    assert weight.few(x, None, Around()) is None
    gate, value = (x @ values.T).chunk(2, dim=-1)
    assert torch.allclose(Linear(weight, None, Ranks())(x, after=Gated("silu")), functional.silu(gate) * value, atol=1e-5)
