"""Norms, gates and rotation against a float64 reference, for every instruction set that this machine can run."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.waiting import PATIENCE_S

from tokenwell.engine.kernels import cpu_elementwise

_made: dict[object, cpu_elementwise.Kernel] = {}


def kernel_for(isa: object, kind: str) -> cpu_elementwise.Kernel:
    if (isa, kind) not in _made:
        _made[isa, kind] = cpu_elementwise.kernel_for(isa, kind)
    return _made[isa, kind]


ROWS = [1, 2, 3, 37, 300]
WIDTHS = [32, 33, 63, 64, 100, 896, 1001]


def close(y: torch.Tensor, expected: torch.Tensor, slack: float = 1e-6) -> None:
    """y is the reference rounded once to bfloat16, but for errors of `slack`."""
    assert y.dtype == torch.bfloat16
    assert y.shape == expected.shape
    assert ((y.double() - expected).abs() <= expected.abs() * (2**-8 + 1e-5) + slack).all()


def activate(kind: str, gate: torch.Tensor) -> torch.Tensor:
    return functional.silu(gate) if kind == "silu" else functional.gelu(gate, approximate="tanh")


@pytest.mark.parametrize("kind", cpu_elementwise.GATED)
def test_gated(isa: object, kind: str) -> None:
    for rows in ROWS:
        for width in WIDTHS:
            torch.manual_seed(rows)
            x = (torch.randn(rows, 2 * width) * 4).bfloat16()
            gate, value = x.double().chunk(2, -1)
            close(cpu_elementwise.gated(kernel_for(isa, kind), x), activate(kind, gate) * value)


@pytest.mark.parametrize("kind", cpu_elementwise.GATED)
def test_every_gate(isa: object, kind: str) -> None:
    """All bfloat16 up to 3000."""
    gate = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    gate = gate[gate.abs() < 3000]
    gate = functional.pad(gate, (0, -gate.numel() % 64)).view(-1, 64)
    y = cpu_elementwise.gated(kernel_for(isa, kind), torch.cat((gate, torch.ones_like(gate)), -1))
    close(y, activate(kind, gate.double()))
    strange = torch.tensor([float("nan"), float("inf"), 0.0, 3e38] * 16).bfloat16()[None]
    y = cpu_elementwise.gated(kernel_for(isa, kind), torch.cat((strange, torch.ones_like(strange)), -1))[0]
    assert torch.isnan(y[0])
    assert torch.isposinf(y[1])
    assert y[2] == 0
    assert y[3] == strange[0, 3]


def norm(x: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


def test_rms_norm(isa: object) -> None:
    for rows in ROWS:
        for width in WIDTHS:
            torch.manual_seed(rows)
            for x in (torch.randn(rows, width).bfloat16(), torch.randn(rows, width + 50).bfloat16()[:, 7 : 7 + width]):
                weight = torch.randn(width).bfloat16()
                y = cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), x, weight, 1e-6)
                close(y, norm(x, 1e-6) * weight.double())
                plain = cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm_plain"), x, None, 0.1)
                close(plain, norm(x, 0.1))


def test_rms_norm_of_heads(isa: object) -> None:
    for tokens in ROWS:
        qkv, weight = torch.randn(tokens, 9, 64).bfloat16(), torch.randn(7, 64).bfloat16()
        y = cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), qkv[:, :7], weight, 1e-6)
        close(y, norm(qkv[:, :7], 1e-6) * weight.double())
        y = cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), qkv[:, :7], weight[0], 1e-6)
        close(y, norm(qkv[:, :7], 1e-6) * weight[0].double())


def test_add_rms_norm(isa: object) -> None:
    for rows in ROWS:
        for width in WIDTHS:
            x, added = torch.randn(rows, width).bfloat16(), torch.randn(rows, width + 3).bfloat16()[:, :width]
            weight = torch.randn(width).bfloat16()
            total, y = cpu_elementwise.add_rms_norm(kernel_for(isa, "add_rms_norm"), x, added, weight, 1e-6)
            assert torch.equal(total, x + added)
            close(y, norm(total, 1e-6) * weight.double())


def test_times(isa: object) -> None:
    for rows in ROWS:
        gate, value = (torch.randn(rows, 48) * 4).bfloat16(), torch.randn(rows, 3, 48).bfloat16()[:, 1]
        y = cpu_elementwise.times(kernel_for(isa, "gelu_tanh"), gate, value)
        close(y, activate("gelu_tanh", gate.double()) * value.double())


def test_join(isa: object) -> None:
    for rows in (1, 3, 37):
        for width in (32, 33, 100, 896):
            x, added = torch.randn(rows, width).bfloat16(), torch.randn(rows, width + 3).bfloat16()[:, :width]
            weight, following = torch.randn(2, width).bfloat16()
            scalar = torch.tensor([0.7]).bfloat16()
            normed = cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), added, weight, 1e-6)
            for factor, expected in ((None, x + normed), (scalar, (x + normed) * scalar)):
                (alone,) = cpu_elementwise.join(kernel_for(isa, "join"), x, added, weight, 1e-6, factor)
                total, y = cpu_elementwise.join(kernel_for(isa, "join_norm"), x, added, weight, 1e-6, factor, following)
                assert torch.equal(alone, expected)
                assert torch.equal(total, expected)
                close(y, norm(total, 1e-6) * following.double())


@pytest.mark.parametrize(("dim", "head_dim"), [(64, 64), (128, 128), (64, 100), (128, 256)])
def test_rope(isa: object, dim: int, head_dim: int) -> None:
    for tokens in ROWS:
        qkv = torch.randn(tokens, 9, head_dim).bfloat16()
        before, x = qkv.clone(), qkv[:, :7]
        cos, sin = torch.randn(tokens, 1, dim).bfloat16(), torch.randn(tokens, 1, dim).bfloat16()
        y = cpu_elementwise.rope_(kernel_for(isa, "rope"), x, cos, sin)
        assert y is x
        wide = before[:, :7, :dim].double()
        expected = wide * cos.double() + wide.roll(dim // 2, -1) * sin.double()
        close(x[..., :dim], expected, slack=1e-5)
        assert torch.equal(qkv[:, 7:], before[:, 7:])
        assert torch.equal(x[..., dim:], before[:, :7, dim:])


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 80), width=st.integers(32, 2000), seed=st.integers(0, 10**6))
def test_random_shapes(best: list[object], rows: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, 2 * width).bfloat16(), torch.randn(width).bfloat16()
    for isa in best:
        gate, value = x.chunk(2, -1)
        close(cpu_elementwise.gated(kernel_for(isa, "silu"), x), functional.silu(gate.double()) * value.double())
        y = cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), value, weight, 1e-5)
        close(y, norm(value, 1e-5) * weight.double())


def test_a_row_does_not_depend_on_its_batch(isa: object) -> None:
    x, weight = torch.randn(200, 1802).bfloat16(), torch.randn(901).bfloat16()
    whole = cpu_elementwise.gated(kernel_for(isa, "silu"), x)
    normed = cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), whole, weight, 1e-6)
    for row in range(200):
        assert torch.equal(cpu_elementwise.gated(kernel_for(isa, "silu"), x[row]), whole[row])
        assert torch.equal(cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), whole[row], weight, 1e-6), normed[row])


def test_neighbours_in_memory_do_not_leak_in(isa: object) -> None:
    store = torch.full((30, 300), float("nan"), dtype=torch.bfloat16)
    x = store[5:25, 90:191].copy_(torch.randn(20, 101))
    weight = torch.full((400,), float("nan"), dtype=torch.bfloat16)[100:201].copy_(torch.randn(101))
    close(cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), x, weight, 1e-6), norm(x, 1e-6) * weight.double())


def test_several_python_threads(isa: object) -> None:
    x = torch.randn(300, 1800).bfloat16()
    expected = cpu_elementwise.gated(kernel_for(isa, "silu"), x)
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for i in range(100) if not torch.equal(cpu_elementwise.gated(kernel_for(isa, "silu"), x), expected))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not wrong


def test_no_rows(isa: object) -> None:
    assert cpu_elementwise.gated(kernel_for(isa, "silu"), torch.zeros(0, 128).bfloat16()).shape == (0, 64)
    x, weight = torch.zeros(0, 64).bfloat16(), torch.zeros(64).bfloat16()
    assert cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), x, weight, 1e-6).shape == (0, 64)


def test_operands_that_do_not_fit_are_refused(isa: object) -> None:
    x = torch.zeros(3, 64).bfloat16()
    with pytest.raises(ValueError, match="not bfloat16 rows"):
        cpu_elementwise.gated(kernel_for(isa, "silu"), x.float())
    with pytest.raises(ValueError, match="not bfloat16 rows"):
        cpu_elementwise.gated(kernel_for(isa, "silu"), x[:, :20])
    with pytest.raises(ValueError, match="weight"):
        cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), x, torch.zeros(65).bfloat16(), 1e-6)
    with pytest.raises(ValueError, match="weight"):
        cpu_elementwise.rms_norm(kernel_for(isa, "rms_norm"), x, torch.zeros(64), 1e-6)
    angles = torch.zeros(3, 1, 64).bfloat16()
    with pytest.raises(ValueError, match="angles"):
        cpu_elementwise.rope_(kernel_for(isa, "rope"), torch.zeros(4, 2, 64).bfloat16(), angles, angles)
    with pytest.raises(ValueError, match="x "):
        cpu_elementwise.rope_(kernel_for(isa, "rope"), torch.zeros(3, 2, 48).bfloat16(), angles, angles)


def test_reasons() -> None:
    cpu = torch.device("cpu")
    assert "only bfloat16" in (cpu_elementwise.reason_not(64, torch.float16, cpu) or "")
    assert cpu_elementwise.reason_not(7, torch.bfloat16, cpu)
    assert cpu_elementwise.rope_reason_not(72, torch.bfloat16, cpu)
