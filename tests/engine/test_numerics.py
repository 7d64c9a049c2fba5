"""The comparison with float32: it goes through, finds what is wrong, and forgives what may fall either way."""

from __future__ import annotations

import pytest
import torch
from benchmarks.gpu import numerics
from benchmarks.gpu.double import Decisions, double, noted, relative, rounded
from benchmarks.gpu.packing import to_int4, to_mxfp4

from tokenwell.engine.layers import norm as norms
from tokenwell.engine.layers.activation import gated
from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.moe import Experts, Mixture
from tokenwell.engine.layers.norm import Stream
from tokenwell.engine.layers.quantised import Fp8Weight
from tokenwell.engine.layers.router import Router
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.experts import ExpertMatrix
from tokenwell.engine.weights.quant.fp8 import Fp8Matrix, quantise_rows

CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_small_model_is_within_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    line = numerics.measure(numerics.TINY, "cpu", 30, 3, 4)
    assert line["passes"] is True
    assert 0 < float(str(line["layer_error"])) < numerics.LIMITS["layer_error"]
    assert float(str(line["to_plain_cache"])) > 0.01  # of keys and values in 8 bits
    assert "logits_error_ratio" in numerics.table([line])


def test_a_model_that_narrows_before_its_end_is_within_the_limits() -> None:
    """Its layers are found by what they are, also where a benchmark puts others in their places."""
    sizes = {
        "hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "global_head_dim": 64, "hidden_size_per_layer_input": 32, "vocab_size": 512, "vocab_size_per_layer_input": 512,
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
    }  # fmt: skip
    line = numerics.measure(numerics.Case("gemma-4-e4b", "fp8", "fp8", changes=sizes), "cpu", 30, 3, 4)
    assert line["passes"] is True


def test_a_wrong_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = norms.RmsNorm.of_sum

    def wrong(self: norms.RmsNorm, x: torch.Tensor, added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, normed = right(self, x, added)
        return total, normed * (1.1 if x.dtype == torch.bfloat16 else 1.0)

    call = norms.RmsNorm.__call__
    monkeypatch.setattr(norms.RmsNorm, "of_sum", wrong)
    monkeypatch.setattr(
        norms.RmsNorm,
        "__call__",
        lambda self, x: call(self, x) * (1.1 if x.dtype == torch.bfloat16 and x.shape[-1] == 256 else 1),
    )
    line = numerics.measure(numerics.TINY, "cpu", 10, 3, 2)
    assert line["passes"] is False
    assert float(str(line["layer_error_ratio"])) > 1


def test_codes_are_judged_by_how_near_they_are() -> None:
    x = draw(20, 64)
    decisions = Decisions(judged=True)
    decisions.codes[7, 0] = rounded(x * (1 + 0.004 * draw(20, 64, seed=1)))
    assert decisions.activations((7, 0), x) is decisions.codes[7, 0]
    assert 1 <= decisions.rounding < 1.05
    decisions.codes[7, 0] = rounded(x * 1.05)
    decisions.activations((7, 0), x)
    assert decisions.rounding > 1.5
    assert decisions.activations((8, 0), x) is x
    decisions.shared = False
    assert torch.equal(decisions.activations((7, 0), x), rounded(x))
    assert relative(rounded(x), x) == pytest.approx(0.026, abs=0.004)


def test_experts_are_judged_by_what_was_passed_over() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.99, -1.0], [0.0, 5.0, 1.0, 2.0]])
    decisions = Decisions(judged=True)
    decisions.chosen[1] = torch.tensor([[0, 2], [1, 3]])
    assert decisions.experts(1, logits, 2).tolist() == [[0, 2], [1, 3]]
    assert decisions.regret == pytest.approx(0.01 / float(logits[0].std()), rel=1e-3)
    assert decisions.others == [0.5]
    decisions.shared = False
    assert decisions.experts(1, logits, 2).tolist() == [[0, 1], [1, 3]]


def test_a_mixture_and_its_double_agree() -> None:
    stacks = ExpertMatrix(draw(5, 24, 16) / 4), ExpertMatrix(draw(5, 16, 12, seed=1) / 4)
    router = Router(Linear(PlainWeight(draw(5, 16, seed=2)), None, Ranks()), 2, over_chosen=True)
    mixture = Mixture(router, Experts(*stacks, gated("silu"), Ranks()))
    decisions = Decisions()
    twin = double(mixture, decisions)
    x, norm = draw(9, 16, seed=3), norms.RmsNorm(None, 16, 1e-6)
    with noted(decisions, CPU):
        found = mixture.onto(Stream(x), norm, norm, coded=False).x
    assert decisions.chosen[id(router)].shape == (9, 2)
    assert relative(found, twin.onto(Stream(x), norm, norm, coded=False).x) < 1e-5
    assert Router._route.__name__ == "_route"


def test_8_bit_weights_are_written_out() -> None:
    matrix = draw(32, 48)
    codes, scales = quantise_rows(matrix)
    weight = Fp8Weight(Fp8Matrix(codes, scales))
    twin = double(Linear(weight, None, Ranks()), Decisions())
    x = draw(3, 48, seed=1)
    assert torch.allclose(twin(x), x @ weight.matrix.dense(torch.float32).T)


def test_nearest_in_four_bits() -> None:
    matrix = draw(8, 256)
    packed = to_int4(matrix)
    step = packed.scales.float().repeat_interleave(packed.group, 1)
    assert ((packed.dense(torch.float32) - matrix).abs() <= 0.51 * step).all()
    stack = to_mxfp4(ExpertMatrix(matrix.view(2, 4, 256)))
    near = stack.dense(torch.float32)
    assert relative(near, matrix.view(2, 4, 256)) < 0.13
    assert torch.equal(to_mxfp4(ExpertMatrix(near)).dense(torch.float32), near)  # what is on the grid stays
