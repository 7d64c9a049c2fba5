"""MXFP4 experts on Hopper: the products compile without a card and are compared on one; what prepares their inputs runs here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tests.engine.kernels import interpreter, rounding, subnormal
from tests.engine.kernels.test_experts import case, close, reference

from tokenwell.engine.kernels import experts_hopper
from tokenwell.engine.kernels.experts_hopper import Tiling, padded, place_of

rounding.correct()
interpreter.complete()
subnormal.correct()

LIMIT = 1.5
EVERY = ((), (Tiling(8, repeat=2), Tiling(64, 8, 3)), (Tiling(32, registers=96, narrower=True), None), (None, Tiling(16)))


def test_places_are_a_permutation_of_each_group() -> None:
    places = place_of(torch.arange(3 * 128))
    for group in range(3):
        assert sorted(places[group * 128 : group * 128 + 128].tolist()) == list(range(group * 128, group * 128 + 128))
    assert places[:4].tolist() == [0, 1, 8, 9]
    assert places[[32, 64, 96]].tolist() == [2, 4, 6]


@pytest.mark.parametrize("counted", [16, 4096])
@pytest.mark.parametrize(("tokens", "experts", "first", "dim", "width"), [(7, 5, 0, 160, 96), (40, 6, 2, 1184, 32)])
def test_inputs_are_sorted_narrowed_and_padded(
    gpu: torch.device, tokens: int, experts: int, first: int, dim: int, width: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experts_hopper, "_COUNTED_SLOTS", counted)
    x, chosen = torch.randn((tokens, dim), device=gpu), torch.rand((tokens, experts)).topk(2).indices.to(gpu, torch.int32)
    hidden = torch.full((2 * tokens, padded(width)), 7.0, dtype=torch.float16, device=gpu)
    places, starts, inputs = experts_hopper.prepare(x, chosen, hidden, width, experts - first, first)
    flat = chosen.flatten().tolist()
    order = [slot for expert in range(first, experts) for slot in range(len(flat)) if flat[slot] == expert]
    assert places[order].tolist() == list(range(len(order)))
    assert starts.tolist() == [sum(first <= e < last for e in flat) for last in range(first, experts + 1)]
    columns = torch.arange(padded(dim), device=gpu)
    tokens_of = torch.tensor(order, device=gpu) // 2
    assert torch.equal(inputs[: len(order), place_of(columns[:dim])], x[tokens_of].to(torch.float16))
    assert not inputs[: len(order), place_of(columns[dim:])].any()
    behind = place_of(torch.arange(width, padded(width), device=gpu))
    assert not hidden[: len(order), behind].any()
    assert int((hidden == 7).sum()) == hidden.numel() - len(order) * len(behind)


def test_the_products_compile_for_hopper() -> None:
    """In a process of its own: Triton's interpreter cannot be left once it is on."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.engine.kernels.compile_hopper"], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.card
@pytest.mark.parametrize(
    ("tokens", "experts", "top", "dim", "width"),
    [(1, 32, 4, 2880, 2880), (64, 32, 4, 2880, 2880), (300, 5, 2, 160, 96), (33, 8, 1, 96, 736), (2100, 6, 2, 160, 96)],
)
def test_products(gpu: torch.device, tokens: int, experts: int, top: int, dim: int, width: int) -> None:
    assert experts_hopper.reason_not(gpu, "swiglu_clamped") is None
    given = case(gpu, "mxfp4", "swiglu_clamped", torch.bfloat16, tokens, experts, top, dim, width)
    for tiles in EVERY:
        actual = experts_hopper.experts_hopper(*given, limit=LIMIT, tiles=tiles or None)
        for some in (slice(8), slice(-8, None)):  # the first and the last rounds
            checked = (given[0][some], given[1][some], given[2][some], *given[3:])
            close(actual[some], reference(checked), 8e-3)


@pytest.mark.card
@pytest.mark.parametrize("tokens", [9, 64, 130, 700])
def test_experts_that_everybody_chooses(gpu: torch.device, tokens: int) -> None:
    """All tokens choose the same few experts but one, who chooses others: most experts have none, some many rounds."""
    x, chosen, *rest = case(gpu, "mxfp4", "swiglu_clamped", torch.bfloat16, tokens, 32, 4, 544, 288)
    chosen = chosen[:1].expand(tokens, 4).contiguous()
    chosen[tokens // 2] = (chosen[0] + 1) % 32
    for tiles in EVERY:
        actual = experts_hopper.experts_hopper(x, chosen, *rest, limit=LIMIT, tiles=tiles or None)
        close(actual, reference((x, chosen, *rest)), 8e-3)
