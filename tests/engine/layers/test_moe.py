"""Mixtures of experts: with kernels as without, dealt to ranks as on one, in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.kernels import interpreter, rounding, subnormal

from tokenwell.checkpoint.recipe import read_recipe
from tokenwell.engine.kernels import experts_few, experts_many
from tokenwell.engine.layers.activation import gated
from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.moe import ClampedGate, Experts, Mixture
from tokenwell.engine.layers.norm import RmsNorm, Stream
from tokenwell.engine.layers.router import Router
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.engine.weights.experts import Split, deal, read_gpt_oss
from tokenwell.engine.weights.source import Source
from tokenwell.wire.errors import CheckpointError

rounding.correct()
interpreter.complete()
subnormal.correct()

COUNT, TOP, DIM, WIDTH = 4, 2, 32, 96
MXFP4 = {"quantization_config": {"quant_method": "mxfp4"}}


class SomeRanks(Ranks):
    """Ranks that do not wait for each other: the test sums."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(autouse=True)
def large_tiles(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter pays for programs, not for their size."""
    if gpu.type == "cpu":
        monkeypatch.setattr(experts_few, "tiling", lambda *_: experts_few.Tiling(128, 32, 1))
        monkeypatch.setattr(experts_many, "tiling", lambda *_: experts_many.Tiling(16, 256, 128, 1, 2))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Turns kernels on and off."""

    def turn(on: bool) -> None:
        monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device: None if on else "not wanted")

    return turn


def source(folder: Path, device: torch.device, order: str = "auto", **config: Any) -> Source:
    (folder / "config.json").write_text(json.dumps({"hidden_size": DIM, "architectures": ["Some"], **config}))
    checkpoint = DummyCheckpoint.open(folder)
    return Source(checkpoint, device, torch.float32, recipe=read_recipe(checkpoint.config, order))


def inputs(device: torch.device, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chosen = torch.rand((tokens, COUNT), device=device).topk(TOP, -1).indices
    return torch.randn((tokens, DIM), device=device), chosen, torch.rand((tokens, TOP), device=device).softmax(-1)


def gpt_oss(source: Source, ranks: Ranks, packed: bool, split: Split = "width") -> Experts:
    part = deal(COUNT, WIDTH, ranks.rank, ranks.world, split, block=32 if packed else 1)
    return Experts(*read_gpt_oss(source, COUNT, DIM, WIDTH, part, packed), ClampedGate(2.0), ranks, part.experts[0])


@pytest.mark.parametrize("tokens", [1, 9])
@pytest.mark.parametrize("fused", [True, False])
def test_plain(gpu: torch.device, tmp_path: Path, kernels: Any, tokens: int, fused: bool) -> None:
    given = inputs(gpu, tokens)
    plus = torch.randn_like(given[0])
    config = {} if fused else {"architectures": ["Qwen3MoeForCausalLM"]}
    results = []
    for on in (False, True):
        kernels(on)
        experts = Experts.load(source(tmp_path, gpu, **config), Ranks(), COUNT, DIM, WIDTH, gated("silu"))
        results.append(experts(*given, plus))
    assert torch.allclose(*results, atol=1e-5)


def test_online_fp8(gpu: torch.device, tmp_path: Path, kernels: Any) -> None:
    given = inputs(gpu, 1)
    kernels(True)
    quantised = Experts.load(source(tmp_path, gpu, "fp8"), Ranks(), COUNT, DIM, WIDTH, gated("silu"))
    assert quantised.gate_up.codes.dtype == torch.float8_e4m3fn
    dense = Experts(quantised.gate_up.unpacked(torch.float32), quantised.down.unpacked(torch.float32), gated("silu"), Ranks())
    expected = dense(*given)
    assert torch.allclose(quantised(*given), expected, atol=1e-5)
    exact = Experts.load(source(tmp_path, gpu), Ranks(), COUNT, DIM, WIDTH, gated("silu"))(*given)
    assert 1e-3 < (expected - exact).norm() / exact.norm() < 0.1


@pytest.mark.parametrize("tokens", [1, 9])
def test_mxfp4(gpu: torch.device, tmp_path: Path, kernels: Any, tokens: int) -> None:
    given = inputs(gpu, tokens)
    results = []
    for on in (False, True):
        kernels(on)
        experts = gpt_oss(source(tmp_path, gpu, **MXFP4), Ranks(), packed=on)
        assert experts.gate_up.packed == on
        results.append(experts(*given))
    assert torch.allclose(*results, atol=1e-4 * results[0].abs().max().item())


@pytest.mark.parametrize(("on", "packed"), [(False, False), (True, False), (True, True)])  # packed weights are for kernels
@pytest.mark.parametrize("split", ["width", "experts"])
def test_ranks_sum_to_what_one_says(
    gpu: torch.device, tmp_path: Path, kernels: Any, on: bool, split: Split, packed: bool
) -> None:  # fmt: skip
    given = inputs(gpu, 2)
    plus = torch.randn_like(given[0])
    kernels(on)

    def load(ranks: Ranks, split: Split = "width") -> Experts:
        if packed:
            return gpt_oss(source(tmp_path, gpu, **MXFP4), ranks, packed, split)
        return Experts.load(source(tmp_path, gpu), ranks, COUNT, DIM, WIDTH, gated("silu"), split)

    expected = load(Ranks())(*given, plus)
    total = torch.zeros_like(expected)
    for rank in range(2):  # 96 columns are three blocks: the ranks get one and two
        total += load(SomeRanks(rank, 2), split)(*given, plus)
    assert torch.allclose(total, expected, atol=1e-4 * expected.abs().max().item())


def test_deal() -> None:
    assert [deal(8, 2880, rank, 4, block=32).width for rank in range(4)] == [(0, 704), (704, 1440), (1440, 2144), (2144, 2880)]
    assert [deal(6, 96, rank, 4, "experts").experts for rank in range(4)] == [(0, 1), (1, 3), (3, 4), (4, 6)]
    assert deal(6, 32, 1, 2, block=32) == deal(6, 32, 1, 2, "experts")
    with pytest.raises(CheckpointError, match="Use another number of ranks"):
        deal(3, 32, 0, 4, block=32)


@pytest.mark.parametrize("over_chosen", [False, True])
@pytest.mark.parametrize("tokens", [1, 17])
def test_router_and_mixture(gpu: torch.device, tmp_path: Path, kernels: Any, over_chosen: bool, tokens: int) -> None:
    x = torch.randn((tokens, DIM), device=gpu)
    matrix, bias = torch.randn((COUNT, DIM), device=gpu), torch.randn(COUNT, device=gpu)
    own = RmsNorm(torch.rand(DIM, device=gpu), DIM, 1e-6)
    before = RmsNorm(torch.rand(DIM, device=gpu), DIM, 1e-6)
    factor = torch.rand(COUNT, device=gpu)
    results = []
    for on in (False, True):
        kernels(on)
        project = Linear(PlainWeight(matrix), bias, Ranks())
        router = Router(project, TOP, over_chosen=over_chosen, norm=own, factor=factor)
        chosen, share = router(x)
        mixture = Mixture(router, Experts.load(source(tmp_path, gpu), Ranks(), COUNT, DIM, WIDTH, gated("silu")))
        results.append((chosen.long(), share, mixture.onto(Stream(x), before, before, coded=False).x))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)
    assert torch.allclose(results[0][2], results[1][2], atol=1e-4)
