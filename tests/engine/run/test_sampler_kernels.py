"""Drawing as accelerators do it gives the tokens and log-probabilities that the CPU gives, and waits for nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tokenwell.engine.platform import accelerator
from tokenwell.engine.run import sampler
from tokenwell.engine.run.mask import Mask
from tokenwell.engine.run.rows import Row
from tokenwell.wire.sampling import Sampling

KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"top_p": 0.8},
    {"top_k": 5, "top_p": 0.95},
    {"min_p": 0.05, "logprobs": 3},
    {"frequency_penalty": 0.5, "repetition_penalty": 1.2},
    {"temperature": 0.0, "logit_bias": {3: 4.0, 9: -float("inf")}, "logprobs": 0},
    {"top_k": 3, "min_tokens": 1000, "stop_ids": (4, 8)},
]


def rows(**more: Any) -> list[Row]:
    return [
        Row(place, [place, *range(20), *range(10, 10 + place)], 15, Sampling(**{"seed": 7 * place, **kind, **more}))
        for place, kind in enumerate(KINDS)
    ]


def both(logits: torch.Tensor, made: list[Row], again: list[Row], mask: Mask | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's draws and the kernels'."""
    expected = sampler.sample(logits.cpu().clone(), made, mask)
    with monkeypatch.context() as patch:
        patch.setattr(accelerator, "kernels_reason_not", lambda device: None)
        logits = logits.clone()
        if logits.is_cuda:
            sampler.draw(logits.clone(), again, mask).finish()  # kernels are compiled now
        with no_waiting(logits):
            drawn = sampler.draw(logits, again, mask)
    draws = drawn.finish()
    assert [draw.token for draw in draws] == [draw.token for draw in expected] == drawn.tokens.tolist()
    for draw, wanted in zip(draws, expected, strict=True):
        assert (draw.logprob is None) == (wanted.logprob is None)
        if draw.logprob is not None and wanted.logprob is not None:
            assert draw.logprob.logprob == pytest.approx(wanted.logprob.logprob, abs=1e-4)
            assert [token for token, _ in draw.logprob.top] == [token for token, _ in wanted.logprob.top]


@contextmanager
def no_waiting(logits: torch.Tensor) -> Iterator[None]:
    """What waits for a card meanwhile is an error."""
    if not logits.is_cuda:
        yield
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # torch says that it does not find every such call
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("more", [{}, {"logprobs": 2}, {"temperature": 0.0}])
def test_whatever_the_rows_want(gpu: torch.device, masked: bool, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    size = 90 if gpu.type == "cpu" else 50_257
    logits = 3 * torch.randn(len(KINDS), size, generator=torch.Generator().manual_seed(1)).to(gpu)
    bits = np.random.default_rng(0).integers(0, 256, (4, -(-size // 8)), dtype=np.uint8)
    both(logits, rows(**more), rows(**more), Mask([0, 2, 5, 7], bits) if masked else None, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kinds", [KINDS[:1], KINDS[:2], KINDS[1:4], KINDS])
def test_logits_of_16_bits(
    gpu: torch.device, masked: bool, kinds: list[dict[str, Any]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sees whether they are read as they are or made float32 first."""
    size = 90 if gpu.type == "cpu" else 50_257
    made = [row for row in rows() if KINDS[row.slot] in kinds]
    logits = torch.full((len(made), size), -torch.inf)
    generator = torch.Generator().manual_seed(2)
    for row in logits:  # numbers that differ in 16 bits, too: of equal ones the CPU may take any
        row[torch.randperm(size, generator=generator)[:80]] = torch.arange(-40, 40) / 8
    bits = np.full((1, -(-size // 8)), 0b10110110, dtype=np.uint8)
    mask = Mask([len(made) - 1], bits) if masked else None
    both(logits.to(gpu, dtype), made, [row for row in rows() if KINDS[row.slot] in kinds], mask, monkeypatch)


def test_a_mask_wins_over_biases_that_leave_nothing(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)).to(gpu)
    banned = {"logit_bias": dict.fromkeys(range(16), -float("inf")), "top_k": 4}

    def made() -> list[Row]:
        return [Row(0, [1], 1, Sampling(**banned)), Row(1, [1], 1, Sampling(logit_bias={2: 1.0}, seed=3))]

    both(logits, made(), made(), Mask([0, 1], np.array([[0x0F, 0], [0, 0x81]], dtype=np.uint8)), monkeypatch)


def test_warming_runs_every_kernel(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device: None)
    sampler.warm(33, gpu, torch.bfloat16)
