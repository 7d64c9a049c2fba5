"""Golden prompts at load: wrong kernels are found, replaced and named; right ones pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from tests.conftest import Tiny

from tokenwell.engine import gate
from tokenwell.engine.gate import Finding, Watch
from tokenwell.engine.kernels import sampling, trust
from tokenwell.engine.layers.attention import Attention
from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.load import load
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.parallel import Ranks
from tokenwell.wire.spec import EngineSpec

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels are there, as on an accelerator; what a test distrusts is forgotten."""
    monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device: None)
    monkeypatch.setattr(trust, "_against", {})
    yield


class Doubling:
    """A layer with kernels of two families, of which one may be wrong."""

    def __init__(self, norms: float = 2.0, gated: float = 1.0) -> None:
        self.factors = torch.tensor([norms, gated])
        self.weight = torch.ones(3)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """2 x"""
        y = x * self.factors[0] if trust.reason_not("norms", CPU) is None else 2 * x
        return y * self.factors[1] if trust.reason_not("gated", CPU) is None else y


def call(layer: Doubling, *sizes: int) -> tuple[Watch, list[Finding]]:
    watch = Watch(1e-3)
    with watch.over([(Doubling, "__call__")]), trust.plain():
        for size in sizes:
            assert layer(torch.ones(size)).tolist() == [2] * size
    return watch, watch.compare(CPU)


def test_right_kernels_are_compared_once_a_shape_and_stay() -> None:
    watch, findings = call(Doubling(), 3, 3, 5)
    assert len(watch.calls) == 2
    assert not findings and not trust.distrusted()


@pytest.mark.parametrize(("layer", "family"), [(Doubling(norms=2.5), "norms"), (Doubling(gated=float("nan")), "gated")])
def test_the_wrong_family_is_found_and_replaced_loudly(layer: Doubling, family: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _, findings = call(layer, 3, 5)
    assert [found.families for found in findings] == [(family,)]
    assert list(trust.distrusted()) == [family]
    assert "Doubling is off by" in caplog.text
    assert layer(torch.ones(2)).tolist() == [2, 2]


def test_when_one_family_is_not_to_blame_none_is_used() -> None:
    layer = Doubling(norms=3.0, gated=3.0)
    _, findings = call(layer, 3)
    assert findings[0].families == trust.FAMILIES
    assert layer(torch.ones(2)).tolist() == [2, 2]


def test_a_kernel_that_fails_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(layer: Doubling, x: torch.Tensor) -> torch.Tensor:
        if trust.reason_not("front", CPU) is None:
            raise RuntimeError("out of registers")
        return 2 * x

    monkeypatch.setattr(Doubling, "__call__", fails)
    _, findings = call(Doubling(), 3)
    assert findings[0].families == ("front",)
    assert findings[0].what == "fails with RuntimeError: out of registers"


class Router:
    """Of two experts a token: its kernel has one token's in the other order, and one of another token's is another."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def _route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, share = torch.tensor([[0, 1], [2, 3], [1, 3]]), torch.tensor([[0.4, 0.6], [0.5, -0.5], [0.5, 0.5]])
        if trust.reason_not("router", CPU) is not None:
            return chosen, share
        kernels = torch.tensor([[1, 0], [2, 3], [0, 3]]), torch.tensor([[0.6, 0.4], [0.5, -0.5], [-0.5, 0.5]])
        return kernels[0], kernels[1] * self.factor


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, False), (1.1, True)])
def test_shares_are_compared_of_experts_that_both_chose(factor: float, wrong: bool) -> None:
    """Which of two nearly equal experts is chosen may differ, and its share may then have another sign."""
    watch = Watch(0.04)
    with watch.over([(Router, "_route")]), trust.plain():
        Router(factor)._route(torch.ones(3, 8))
    findings = watch.compare(CPU)
    assert [(found.call, found.families) for found in findings] == ([("Router._route", ("router",))] if wrong else [])


def test_what_is_one_kernel_for_few_tokens_is_compared_as_one() -> None:
    weight, norm = torch.randn(8, 16), RmsNorm(torch.ones(8), 8, 1e-6)
    linear, watch = Linear(PlainWeight(weight), None, Ranks()), Watch(1e-3)
    for tokens, kinds in ((2, ["Linear"]), (20, ["Linear", "Linear", "RmsNorm.of_sum"])):
        x, y = torch.randn(tokens, 8), torch.randn(tokens, 16)
        with watch.over(gate.WATCHED), trust.plain():
            stream = linear.onto(x, y, norm, coded=False)
        assert torch.allclose(stream.x, x + y @ weight.T, atol=1e-5)
        assert (stream.normed is None) == (tokens == 2)
        assert [call.name for call in watch.calls] == kinds


@pytest.mark.parametrize("name", ["gemma4-moe", "gpt-oss-mxfp4"])
def test_a_model_goes_through(name: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # no kernels after all: both ways are the same
    monkeypatch.setattr(gate, "log", logging.getLogger("nowhere"))
    loaded = load(EngineSpec(str(tiny(name)), "", "", device="cpu", dtype="float32", kv_cache_gib=0.01), check=True)
    told = {choice.what: choice for choice in loaded.ready.choices}
    assert told["golden prompts"].chosen == "passed"
    assert Attention.attend.__qualname__ == "Attention.attend"
    assert RmsNorm.__call__.__name__ == "__call__" and not hasattr(RmsNorm.__call__, "__wrapped__")


def test_chosen_tokens_are_compared(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "kernels_reason_not", lambda device: "not while plain torch is asked")
        watch = Watch(1e-3)
        watch.keep_choices(500, gpu)
    assert len(watch.calls) == len(gate.SAMPLINGS)
    assert not watch.compare(gpu)
    real = sampling.choose
    monkeypatch.setattr(sampling, "choose", lambda *given, **named: real(*given, **named) * 0)
    assert {found.families for found in watch.compare(gpu)} == {("sampler",)}
    assert not watch.compare(gpu)
