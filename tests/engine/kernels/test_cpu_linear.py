"""The few-row kernels against a float32 reference, for every instruction set that this machine can run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels.threads import at_once

from tokenwell.engine.kernels import cpu_linear

SHAPES = [(4, 32), (7, 33), (9, 41), (100, 896), (33, 63), (1152, 896), (65, 4864), (1001, 100)]


_made: dict[object, cpu_linear.Kernels] = {}


def kernels_for(isa: object) -> cpu_linear.Kernels:
    if isa not in _made:
        _made[isa] = cpu_linear.kernels_for(isa)
    return _made[isa]


@pytest.fixture
def kernels(isa: object) -> cpu_linear.Kernels:
    return kernels_for(isa)


def check(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    """y is the float32 result rounded once to bfloat16, but for the order of the sums."""
    product = x.float() @ weight.float().T
    expected = product if bias is None else product + bias.float()
    # Half a unit of bfloat16's last place (2**-8 relative at most), and the sum's own errors.
    magnitude = x.float().abs() @ weight.float().abs().T
    slack = expected.abs() * 2**-8 + magnitude * 2**-20 + 1e-30
    assert y.dtype == torch.bfloat16
    assert y.shape == expected.shape
    assert ((y.float() - expected).abs() <= slack).all()


@pytest.mark.parametrize("with_bias", [False, True])
def test_every_number_of_rows(kernels: cpu_linear.Kernels, with_bias: bool) -> None:
    for rows in [*range(1, 18), 25, 32, 33]:
        torch.manual_seed(rows)
        for out, depth in SHAPES:
            x, weight = torch.randn(rows, depth).bfloat16(), torch.randn(out, depth).bfloat16()
            bias = torch.randn(out).bfloat16() if with_bias else None
            check(cpu_linear.linear(x, cpu_linear.Prepared(weight, kernels), bias), x, weight, bias)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 34), out=st.integers(4, 700), depth=st.integers(32, 3000), seed=st.integers(0, 10**6))
def test_random_shapes(best: list[object], rows: int, out: int, depth: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(rows, depth).bfloat16(), torch.randn(out, depth).bfloat16(), torch.randn(out).bfloat16()
    for isa in best:
        check(cpu_linear.linear(x, cpu_linear.Prepared(weight, kernels_for(isa)), bias), x, weight, bias)


def test_neighbours_in_memory_do_not_leak_in(kernels: cpu_linear.Kernels) -> None:
    for out, depth in SHAPES:
        store = torch.full((out * depth + 200,), float("nan"), dtype=torch.bfloat16)
        weight = store[100 : 100 + out * depth].view(out, depth)
        weight.copy_(torch.randn(out, depth))
        x = torch.full((5 * depth + 200,), float("nan"), dtype=torch.bfloat16)[100 : 100 + 5 * depth]
        x = x.view(5, depth).copy_(torch.randn(5, depth))
        check(cpu_linear.linear(x, cpu_linear.Prepared(weight, kernels)), x, weight)


def test_infinity_nan_and_zero(kernels: cpu_linear.Kernels) -> None:
    x = torch.randn(6, 70).bfloat16()
    x[0, 69], x[1, 3], x[2], x[3, 40] = float("inf"), float("nan"), 0, float("-inf")
    y = cpu_linear.linear(x, cpu_linear.Prepared(torch.rand(50, 70).bfloat16() + 0.1, kernels))
    assert torch.isposinf(y[0]).all()
    assert torch.isnan(y[1]).all()
    assert (y[2] == 0).all()
    assert torch.isneginf(y[3]).all()
    assert torch.isfinite(y[4:]).all()


def test_operands_need_not_be_contiguous(kernels: cpu_linear.Kernels) -> None:
    weight, bias = torch.randn(200, 96).bfloat16(), torch.randn(400).bfloat16()[::2]
    views = (torch.randn(96, 5).T, torch.randn(5, 300)[:, 7:103], torch.randn(1, 96).expand(5, 96))
    for x in (view.bfloat16() for view in views):
        check(cpu_linear.linear(x, cpu_linear.Prepared(weight, kernels), bias), x, weight, bias)


def test_a_row_does_not_depend_on_its_batch(kernels: cpu_linear.Kernels) -> None:
    """The same sums in the same order whatever the other rows are."""
    prepared = cpu_linear.Prepared(torch.randn(300, 896).bfloat16(), kernels)
    x = torch.randn(kernels.max_rows, 896).bfloat16()
    whole = cpu_linear.linear(x, prepared)
    for rows in range(1, kernels.max_rows):
        assert torch.equal(cpu_linear.linear(x[:rows], prepared), whole[:rows])


def test_several_python_threads_and_any_number_of_pool_threads(kernels: cpu_linear.Kernels) -> None:
    weights = [torch.randn(out, 896).bfloat16() for out in (512, 2048)]
    wrong: list[int] = []

    def work() -> None:
        for turn in range(100):
            x = torch.randn(1 + turn % 16, 896).bfloat16()
            try:
                check(cpu_linear.linear(x, cpu_linear.Prepared(weights[turn % 2], kernels)), x, weights[turn % 2])
            except AssertionError:
                wrong.append(turn)

    at_once(work)
    assert not wrong


def test_many_rows_use_torch(kernels: cpu_linear.Kernels) -> None:
    x, weight = torch.randn(kernels.max_rows + 1, 64).bfloat16(), torch.randn(9, 64).bfloat16()
    prepared = cpu_linear.Prepared(weight, kernels)
    assert torch.equal(cpu_linear.linear(x, prepared), functional.linear(x, weight))
    assert cpu_linear.linear(x[:0], prepared).shape == (0, 9)


def test_many_rows_without_products_of_bfloat16(isa: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_linear, "_WIDENED", 64 * 5)  # five rows of the weight at a time
    kernels = kernels_for(isa)
    x, weight, bias = torch.randn(40, 64).bfloat16(), torch.randn(99, 64).bfloat16(), torch.randn(99).bfloat16()
    for added in (bias, None):
        check(cpu_linear.linear(x, cpu_linear.Prepared(weight, kernels), added), x, weight, added)


@pytest.mark.parametrize(
    ("x", "bias"),
    [
        (torch.randn(1, 63).bfloat16(), None),
        (torch.randn(1, 64), None),
        (torch.randn(1, 64).bfloat16(), torch.randn(9)),
        (torch.randn(1, 64).bfloat16(), torch.randn(8).bfloat16()),
    ],
)
def test_operands_that_do_not_fit_are_refused(kernels: cpu_linear.Kernels, x: torch.Tensor, bias: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="x "):
        cpu_linear.linear(x, cpu_linear.Prepared(torch.randn(9, 64).bfloat16(), kernels), bias)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.randn(64, 64), "only bfloat16"),
        (torch.randn(64, 64).half(), "only bfloat16"),
        (torch.randn(64, 128).bfloat16()[:, ::2], "not a contiguous matrix"),
        (torch.randn(2, 64).bfloat16(), "smaller than one step"),
        (torch.randn(64, 5).bfloat16(), "smaller than one step"),
    ],
)
def test_a_weight_that_is_not_served_gets_a_reason(kernels: cpu_linear.Kernels, weight: torch.Tensor, reason: str) -> None:
    assert reason in (cpu_linear.reason_not(weight) or "")


def test_without_the_code_generator_there_is_a_reason() -> None:
    code = (
        "import sys; sys.modules['llvmlite'] = None\n"
        "import torch; from tokenwell.engine.kernels import cpu_linear\n"
        "assert 'llvmlite' in cpu_linear.reason_not(torch.randn(64, 64).bfloat16())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
