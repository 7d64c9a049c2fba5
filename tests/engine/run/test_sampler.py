"""Sampling: filters against a slow reference, frequencies against probabilities, noise that no batch can change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.run import sampler
from tokenwell.engine.run.noise import uniform
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.sampler import describe, sample
from tokenwell.wire.sampling import Sampling


def row(prompt: list[int] | None = None, output: list[int] | None = None, **sampling: Any) -> Row:
    """A row that is about to sample."""
    prompt = prompt or [0]
    return Row(0, [*prompt, *(output or [])], len(prompt), Sampling(**sampling))


def allowed(logits: torch.Tensor, sampling: Sampling) -> set[int]:
    """The tokens that min_p, then top_k, then top_p leave, one by one in plain Python."""
    weights = (logits.double() / sampling.temperature).softmax(-1).tolist()
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    order = [token for token in order if weights[token] >= sampling.min_p * weights[order[0]]]
    if sampling.top_k > 0:
        order = order[: sampling.top_k]
    whole, kept, mass = sum(weights[token] for token in order), set(), 0.0
    for token in order:
        if kept and mass >= sampling.top_p * whole * (1 + 1e-6):
            break
        kept.add(token)
        mass += weights[token]
    return kept


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([5, 60, 3000]),
    spread=st.sampled_from([0.1, 1.0, 6.0]),
    top_k=st.sampled_from([0, 1, 3, 50, 2000]),
    top_p=st.sampled_from([1e-9, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.7, 1.0]),
    temperature=st.sampled_from([0.2, 1.0, 3.0]),
)
def test_only_tokens_that_the_filters_leave_are_drawn(
    seed: int, size: int, spread: float, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    logits = spread * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    rows = [row(seed=seed + i, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature) for i in range(8)]
    left = allowed(logits, rows[0].sampling)
    assert {draw.token for draw in sample(logits.expand(8, -1).clone(), rows)} <= left


@pytest.mark.parametrize("filters", [{}, {"top_k": 4}, {"top_p": 0.8}, {"min_p": 0.2}, {"top_k": 5, "top_p": 0.7, "min_p": 0.1}])
def test_frequencies_follow_the_probabilities(filters: dict[str, Any]) -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 0.5, -1.0, 1.5])
    rows = [row(seed=seed, **filters) for seed in range(4000)]
    left = allowed(logits, rows[0].sampling)
    weights = logits.softmax(-1).tolist()
    whole = sum(weights[token] for token in left)
    drawn = [draw.token for draw in sample(logits.expand(len(rows), -1).clone(), rows)]
    for token in range(6):
        expected = weights[token] / whole if token in left else 0.0
        assert drawn.count(token) / len(rows) == pytest.approx(expected, abs=5 * math.sqrt(0.25 / len(rows)))


def test_the_batch_does_not_change_a_draw() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 500)
    rows = [row(output=[1] * i, seed=i, temperature=0.5 * i, top_k=10 * (i % 2), top_p=0.9 if i % 3 else 1.0) for i in range(6)]
    together = [draw.token for draw in sample(logits.clone(), rows)]
    alone = [sample(logits[i : i + 1].clone(), [rows[i]])[0].token for i in range(6)]
    assert together == alone


def test_the_noise_depends_on_seed_and_position() -> None:
    numbers = [uniform(seed, position) for seed in (-1, 0, 1, 2**63 - 1) for position in range(500)]
    assert len(set(numbers)) == len(numbers)
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)
    assert uniform(7, 9) == uniform(7, 9)


def test_greedy_takes_the_best_and_a_tiny_temperature_nearly_is_greedy() -> None:
    torch.manual_seed(1)
    logits = 3 * torch.randn(3, 100)
    best = logits.argmax(-1).tolist()
    assert [draw.token for draw in sample(logits.clone(), [row(temperature=0.0)] * 3)] == best
    assert [draw.token for draw in sample(logits.clone(), [row(temperature=1e-6, seed=i) for i in range(3)])] == best


def test_penalties_and_bias_follow_their_formulas() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0]])
    settings_ = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 2.0, "logit_bias": {3: -4.0}}
    subject = row(prompt=[1], output=[0, 0, 2], temperature=0.0, **settings_)
    changed = logits.clone()
    sample(changed, [subject])
    expected = [2.0 / 2 - 0.25 * 2 - 0.5, -1.0 * 2, 0.5 / 2 - 0.25 - 0.5, 1.0 - 4.0]
    torch.testing.assert_close(changed[0], torch.tensor(expected))
    subject.tokens.append(3)  # counts follow as the output grows
    changed = logits.clone()
    sample(changed, [subject])
    expected[3] = 1.0 / 2 - 0.25 - 0.5 - 4.0
    torch.testing.assert_close(changed[0], torch.tensor(expected))


def test_stop_ids_cannot_come_before_min_tokens() -> None:
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    early = row(output=[1], temperature=0.0, stop_ids=(0,), min_tokens=2)
    late = row(output=[1, 1], temperature=0.0, stop_ids=(0,), min_tokens=2)
    assert [draw.token for draw in sample(logits.expand(2, -1).clone(), [early, late])] == [1, 0]


def test_logprobs_are_those_of_the_raw_distribution() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    rows = [row(temperature=0.0, logprobs=2, logit_bias={0: 100.0}), row(temperature=0.0)]
    first, second = sample(logits.clone(), rows)
    raw = logits[0].log_softmax(-1)
    assert first.token == 0
    assert second.logprob is None
    assert first.logprob is not None
    assert first.logprob.logprob == pytest.approx(raw[0].item())
    assert [token for token, _ in first.logprob.top] == [1, 2]
    assert first.logprob.top[0][1] == pytest.approx(raw[1].item())


def test_more_alternatives_than_tokens_are_all_there_are() -> None:
    described = describe(torch.randn(2, 3), [0, 1], [20, 0])
    assert len(described[0].top) == 3
    assert described[1].top == []


def test_a_flat_distribution_is_sampled_beyond_the_candidates() -> None:
    """top_p close to 1 over more equal tokens than the candidate list holds: all must stay reachable."""
    size = 4 * sampler._CANDIDATES
    rows = [row(seed=seed, top_p=0.99) for seed in range(64)]
    tokens = {draw.token for draw in sample(torch.zeros(64, size), rows)}
    assert len(tokens) > 50
