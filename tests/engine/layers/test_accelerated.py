"""Layers that have a kernel for accelerators do the same with it as without: here by Triton's interpreter, or on a card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.engine.kernels import rounding

from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.kernels.heads import Heads
from tokenwell.engine.layers.activation import gated
from tokenwell.engine.layers.attention import Attention, CacheOwner
from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.norm import Join, RmsNorm
from tokenwell.engine.layers.per_layer import PerLayerGate, PerLayerInputs
from tokenwell.engine.layers.rotary import RopeSpec, Rotary
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.batch import Batch, GroupBatch
from tokenwell.engine.run.parallel import Ranks

rounding.correct()
Work = Callable[[], Any]
EPS = 1e-6


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work], None]:
    """Run some work without and with kernels and compare everything that it returns."""

    def compare(work: Work) -> None:
        results = []
        for reason in ("not wanted", None):
            monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device, reason=reason: reason)
            made = work()
            results.append(made if isinstance(made, tuple) else (made,))
        assert len(results[0]) == len(results[1])
        for plain, fused in zip(*results, strict=True):
            assert plain.shape == fused.shape
            assert plain.dtype == fused.dtype
            assert torch.allclose(plain.float(), fused.float(), atol=1e-5, rtol=1e-4)

    return compare


def randn(gpu: torch.device, *shape: int) -> torch.Tensor:
    return torch.randn(shape, device=gpu)


def norm(gpu: torch.device, dim: int) -> RmsNorm:
    return RmsNorm(randn(gpu, dim), dim, EPS)


def test_norm(gpu: torch.device, both: Callable[[Work], None]) -> None:
    x, y = randn(gpu, 3, 12), randn(gpu, 3, 12)
    one = norm(gpu, 12)
    both(lambda: one(x))
    both(lambda: RmsNorm(None, 12, EPS)(x))
    both(lambda: RmsNorm(randn(gpu, 2, 4).fill_(2.0), 4, EPS)(x[:, :8].unflatten(-1, (2, 4))))
    both(lambda: one.of_sum(x, y))


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("nexts", [0, 1, 2])
def test_join(gpu: torch.device, both: Callable[[Work], None], outer: bool, nexts: int) -> None:
    x, y, z = (randn(gpu, 2, 20) for _ in range(3))
    join = Join((norm(gpu, 20),), tuple(norm(gpu, 20) for _ in range(nexts)), scalar=randn(gpu, 1) if nexts else None)
    if outer:
        two = replace(join, norms=(norm(gpu, 20), norm(gpu, 20)), outer=norm(gpu, 20))
        both(lambda: two(x, y, z))
    else:
        both(lambda: join(x, y))


@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh", "relu"])
def test_gated(gpu: torch.device, both: Callable[[Work], None], name: str) -> None:
    x, activation = randn(gpu, 3, 14), gated(name)
    both(lambda: activation(x))
    both(lambda: activation.times(x[:, :7], x[:, 7:]))


class Tables:
    """A source of tensors that were made up."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.dtype = device, torch.float32
        self.made: dict[str, torch.Tensor] = {}

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.made.setdefault(name, randn(self.device, *shape))


def linear(gpu: torch.device, out: int, inputs: int) -> Linear:
    return Linear(PlainWeight(randn(gpu, out, inputs) * inputs**-0.5), None, Ranks())


def test_per_layer_inputs(gpu: torch.device, both: Callable[[Work], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Linear, "load", lambda source, ranks, name, inputs, outputs: linear(gpu, outputs, inputs))
    layer = PerLayerInputs(Tables(gpu), Ranks(), 11, 3, 8, 20, EPS, offloaded=False)  # type: ignore[arg-type]
    ids, embedded = torch.randint(0, 11, (4,), device=gpu), randn(gpu, 4, 20)
    both(lambda: layer(ids, embedded))


@pytest.mark.parametrize("tokens", [2, 9, 19])
def test_per_layer_gate(gpu: torch.device, both: Callable[[Work], None], monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(Linear, "load", lambda source, ranks, name, inputs, outputs: linear(gpu, outputs, inputs))
    join = Join((norm(gpu, 20),))
    gate = PerLayerGate(Tables(gpu), Ranks(), 20, 8, gated("gelu_pytorch_tanh"), join)  # type: ignore[arg-type]
    x, y, given = randn(gpu, tokens, 20), randn(gpu, tokens, 20), randn(gpu, tokens, 3, 8)[:, 1]
    both(lambda: gate(x, given, y))


def test_per_layer_gate_after_two(gpu: torch.device, both: Callable[[Work], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Linear, "load", lambda source, ranks, name, inputs, outputs: linear(gpu, outputs, inputs))
    join = Join((norm(gpu, 20), norm(gpu, 20)), outer=norm(gpu, 20))
    gate = PerLayerGate(Tables(gpu), Ranks(), 20, 8, gated("gelu_pytorch_tanh"), join)  # type: ignore[arg-type]
    x, dense, experts = (randn(gpu, 9, 20) for _ in range(3))
    given = randn(gpu, 9, 8)
    both(lambda: gate(x, given, dense, experts))


ROPES = {
    "whole": RopeSpec("default", 100.0, 16),
    "partial": RopeSpec("default", 100.0, 16, rotated=0.5),
    "proportional": RopeSpec("proportional", 100.0, 16, rotated=0.25),
    "yarn": RopeSpec("yarn", 100.0, 16, scaling=(("factor", 4.0), ("original_max_position_embeddings", 32))),
}


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("kind", ["plain", "normed", "one projection", "bare projection", "shared"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn])
def test_front(gpu: torch.device, both: Callable[[Work], None], rope: str, kind: str, dtype: torch.dtype) -> None:
    rotary = Rotary(ROPES[rope], gpu, torch.float32)
    q_norm, k_norm = randn(gpu, 16), randn(gpu, 16)
    plain = Heads(4, 2, 16, rotary.dim // 2, rotary.turning, EPS)
    heads = {
        "plain": plain,
        "normed": replace(plain, q_norm=q_norm, k_norm=k_norm, v_norm=True),
        "one projection": replace(plain, q_norm=q_norm, k_norm=k_norm, v_norm=True, k_eq_v=True),
        "bare projection": replace(plain, k_eq_v=True),
        "shared": replace(plain, q_norm=q_norm, owns=False),
    }[kind]
    spec = AttentionSpec(4, 2, 16, 0.25)
    attention = Attention(spec, CacheOwner(0, 0), ReferenceAttention(), heads, rotary)
    qkv = randn(gpu, 5, {"one projection": 6, "bare projection": 6, "shared": 4}.get(kind, 8) * 16)

    def work() -> tuple[torch.Tensor, ...]:
        pool = torch.zeros((9, 2, 3, 2, 16), device=gpu).to(dtype)
        scale = 1.0 if dtype == torch.float32 else 0.02
        batch = batch_of(gpu, LayerCache(pool[:, 0], pool[:, 1], scale, scale))
        q = attention.front(qkv.clone(), batch)
        return q, pool.float()

    both(work)


def batch_of(gpu: torch.device, cache: LayerCache) -> Batch:
    """Two rows: one goes on at position 4, the other starts with four tokens."""

    def numbers(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=gpu)

    return Batch(
        ids=numbers(1, 2, 3, 4, 5, dtype=torch.int64), positions=numbers(4, 0, 1, 2, 3, dtype=torch.int64), slots=numbers(2, 0),
        starts=numbers(0, 1, 5), lengths=numbers(5, 4), token_rows=numbers(0, 1, 1, 1, 1), singles=1, longest=5, most=4, spans=(),
        groups=(GroupBatch(3, numbers(5, 3, 0, 0, 8, 1).view(3, 2)),), caches=[cache], keep=numbers(0, 4), keep_all=False,
    )  # fmt: skip
