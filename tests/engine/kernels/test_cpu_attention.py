"""Attention kernels against a float32 reference, for every instruction set that this machine can run."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels.threads import at_once

from tokenwell.engine.kernels import cpu_attention

_made: dict[object, cpu_attention.Kernels] = {}


def kernels_for(isa: object, dim: int) -> cpu_attention.Kernels:
    if (isa, dim) not in _made:
        _made[isa, dim] = cpu_attention.kernels_for(isa, dim)
    return _made[isa, dim]


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, position: int, window: int | None, sinks: torch.Tensor | None
) -> torch.Tensor:
    queries, heads = q.shape[:2]
    group = heads // k.shape[1]
    qs, ks, vs = (x.float().transpose(0, 1) for x in (q, k, v))
    ks, vs = ks.repeat_interleave(group, 0), vs.repeat_interleave(group, 0)
    scores = qs @ ks.transpose(1, 2) * scale
    query_at, key_at = torch.arange(queries)[:, None] + position, torch.arange(k.shape[0])[None]
    seen = key_at <= query_at
    if window is not None:
        seen &= key_at > query_at - window
    scores = scores.masked_fill(~seen, -math.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.float()[:, None, None].expand(-1, queries, 1)), -1)
    chances = scores.softmax(-1)
    return (chances[..., : k.shape[0]] @ vs).transpose(0, 1)


def check(
    kernels: cpu_attention.Kernels, queries: int, position: int, heads: int, kv_heads: int, *,
    window: int | None = None, sinks: bool = False, spread: float = 1.0, extra: int = 0,
) -> None:  # fmt: skip
    dim, keys = kernels.head_dim, position + queries + extra
    q = (torch.randn(queries, heads, dim) * spread).bfloat16()
    k, v = torch.randn(keys, kv_heads, dim).bfloat16(), torch.randn(keys, kv_heads, dim).bfloat16()
    sink = torch.randn(heads).bfloat16() * 3 if sinks else None
    scale = dim**-0.5
    out = cpu_attention.attention(kernels, q, k, v, scale, position, window, sink)
    expected = reference(q, k, v, scale, position, window, sink)
    assert out.dtype == torch.bfloat16
    assert out.shape == q.shape
    # Half a unit of the last place of the result, and of every probability.
    mixed = reference(q, k, v.abs(), scale, position, window, sink)
    assert ((out.float() - expected).abs() <= expected.abs() * 2**-8 + mixed * 2**-8 + 1e-6).all()


@pytest.mark.parametrize("dim", [32, 64, 96, 128, 256, 512])
def test_head_sizes(isa: object, dim: int) -> None:
    torch.manual_seed(dim)
    kernels = kernels_for(isa, dim)
    for queries, position, heads, kv_heads in [(1, 0, 2, 2), (33, 0, 6, 2), (50, 131, 7, 1), (130, 5, 4, 4)]:
        check(kernels, queries, position, heads, kv_heads)


@pytest.mark.parametrize("window", [1, 2, 31, 32, 33, 128, 200, 10**6])
def test_windows(isa: object, window: int) -> None:
    torch.manual_seed(window)
    for queries, position in [(1, 300), (40, 0), (300, 0), (129, 257)]:
        check(kernels_for(isa, 64), queries, position, 6, 2, window=window)


def test_groups_larger_than_a_block(isa: object) -> None:
    check(kernels_for(isa, 64), 5, 40, 130, 1)


def test_sinks_and_large_scores(isa: object) -> None:
    torch.manual_seed(0)
    for spread in (0.0, 1.0, 30.0, 1e4):
        for sinks in (False, True):
            check(kernels_for(isa, 64), 150, 70, 8, 2, sinks=sinks, spread=spread)
            check(kernels_for(isa, 64), 150, 70, 8, 2, sinks=sinks, spread=spread, window=20)


@settings(max_examples=80, deadline=None)
@given(
    queries=st.integers(1, 400), position=st.integers(0, 500), kv_heads=st.integers(1, 4), group=st.integers(1, 9),
    window=st.none() | st.integers(1, 700), sinks=st.booleans(), seed=st.integers(0, 10**6), extra=st.integers(0, 40),
)  # fmt: skip
def test_random_shapes(
    best: list[object],
    queries: int,
    position: int,
    kv_heads: int,
    group: int,
    window: int | None,
    sinks: bool,
    seed: int,
    extra: int,
) -> None:
    torch.manual_seed(seed)
    for isa in best:
        kernels = kernels_for(isa, 64)
        check(kernels, queries, position, kv_heads * group, kv_heads, window=window, sinks=sinks, extra=extra)


def test_what_nobody_sees_does_not_leak_in(isa: object) -> None:
    """Keys and values after the last position, before the window, and around the operands."""
    queries, position, window, dim = 20, 150, 30, 64
    big = torch.full((500, 2, dim), float("nan"), dtype=torch.bfloat16)
    k, v = big.clone(), big.clone()
    first, keys = position - window + 1, position + queries
    aligned = first // 32 * 32  # tiles are read whole
    for x in (k, v):
        x[aligned:keys] = torch.randn(keys - aligned, 2, dim)
    q = torch.full((60, 4, dim), float("nan"), dtype=torch.bfloat16)[20:40].copy_(torch.randn(queries, 4, dim))
    out = cpu_attention.attention(kernels_for(isa, dim), q, k, v, 0.125, position, window)
    ks, vs = (x.nan_to_num() for x in (k, v))
    expected = reference(q, ks, vs, 0.125, position, window, None)
    assert (out.float() - expected).abs().max() < 0.02


def test_a_large_hidden_value_counts_nothing(isa: object) -> None:
    q, k, v = (torch.randn(64, 2, 64).bfloat16() for _ in range(3))
    v[1:] = 3e38
    out = cpu_attention.attention(kernels_for(isa, 64), q, k, v, 0.125, 0)
    assert torch.equal(out[0], v[0])


def test_nan_stays_in_its_row(isa: object) -> None:
    q, k, v = (torch.randn(40, 2, 64).bfloat16() for _ in range(3))
    q[7, 1, 3] = float("nan")
    out = cpu_attention.attention(kernels_for(isa, 64), q, k, v, 0.125, 0)
    assert torch.isnan(out[7, 1]).all()
    out[7, 1] = 0
    assert torch.isfinite(out).all()


def test_strided_operands(isa: object) -> None:
    qkv = torch.randn(70, 10, 64).bfloat16()
    q, k, v = qkv[:, :6], qkv[:, 6:8], qkv[:, 8:]
    out = cpu_attention.attention(kernels_for(isa, 64), q, k, v, 0.125, 0)
    same = cpu_attention.attention(kernels_for(isa, 64), q.contiguous(), k.contiguous(), v.contiguous(), 0.125, 0)
    assert torch.equal(out, same)
    turned = torch.randn(10, 70, 64).bfloat16().transpose(0, 1)
    again = cpu_attention.attention(kernels_for(isa, 64), turned[:, :6], turned[:, 6:8], turned[:, 8:], 0.125, 0)
    assert (again.float() - reference(turned[:, :6], turned[:, 6:8], turned[:, 8:], 0.125, 0, None, None)).abs().max() < 0.03


def test_several_python_threads_and_any_number_of_pool_threads(isa: object) -> None:
    kernels = kernels_for(isa, 64)
    q, k, v = torch.randn(60, 14, 64).bfloat16(), torch.randn(160, 2, 64).bfloat16(), torch.randn(160, 2, 64).bfloat16()
    expected = cpu_attention.attention(kernels, q, k, v, 0.125, 100)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(
            turn for turn in range(60) if not torch.equal(cpu_attention.attention(kernels, q, k, v, 0.125, 100), expected)
        )

    at_once(work)
    assert not wrong


@pytest.mark.parametrize(
    ("q", "k", "position"),
    [
        (torch.zeros(3, 4, 32).bfloat16(), torch.zeros(3, 2, 32).bfloat16(), 0),
        (torch.zeros(3, 4, 64), torch.zeros(3, 2, 64), 0),
        (torch.zeros(3, 5, 64).bfloat16(), torch.zeros(3, 2, 64).bfloat16(), 0),
        (torch.zeros(3, 4, 64).bfloat16(), torch.zeros(3, 2, 64).bfloat16(), 1),
        (torch.zeros(3, 4, 64).bfloat16(), torch.zeros(9, 2, 64).bfloat16(), -1),
    ],
)
def test_operands_that_do_not_fit_are_refused(isa: object, q: torch.Tensor, k: torch.Tensor, position: int) -> None:
    with pytest.raises(ValueError, match=r"fit|must be"):
        cpu_attention.attention(kernels_for(isa, 64), q, k, k, 1.0, position)


def test_reasons() -> None:
    cpu = torch.device("cpu")
    assert "only bfloat16" in (cpu_attention.reason_not(64, torch.float32, cpu) or "")
    assert cpu_attention.reason_not(80, torch.bfloat16, cpu)
    assert cpu_attention.reason_not(1024, torch.bfloat16, cpu)


def test_without_the_code_generator_there_is_a_reason() -> None:
    code = (
        "import sys; sys.modules['llvmlite'] = None\n"
        "import torch; from tokenwell.engine.kernels import cpu_attention\n"
        "assert 'llvmlite' in cpu_attention.reason_not(64, torch.bfloat16, torch.device('cpu'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
