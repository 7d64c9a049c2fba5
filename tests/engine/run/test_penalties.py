"""Penalties, biases and min_tokens of many rows at once against their formulas token by token."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.run import penalties
from tokenwell.engine.run.rows import Row
from tokenwell.wire.sampling import Sampling

SIZE = 12
tokens = st.lists(st.integers(0, SIZE - 1), max_size=30)
samplings = st.fixed_dictionaries(
    {
        "presence_penalty": st.sampled_from([0.0, 0.5, -1.0]),
        "frequency_penalty": st.sampled_from([0.0, 0.25]),
        "repetition_penalty": st.sampled_from([1.0, 1.3, 0.5]),
        "logit_bias": st.dictionaries(st.integers(0, SIZE - 1), st.sampled_from([-3.0, 2.0, -float("inf")]), max_size=3),
        "min_tokens": st.sampled_from([0, 4, 1000]),
        "stop_ids": st.sampled_from([(), (3,), (0, 5, 5)]),
    }
)


def expected(logits: list[float], row: Row) -> list[float]:
    sampling, output = row.sampling, row.tokens[row.prompt_tokens :]
    changed = list(logits)
    for token in range(SIZE):
        if token in row.tokens:
            penalty = sampling.repetition_penalty
            changed[token] = changed[token] / penalty if changed[token] > 0 else changed[token] * penalty
        changed[token] -= sampling.frequency_penalty * output.count(token)
        changed[token] -= sampling.presence_penalty * (token in output)
        changed[token] += sampling.logit_bias.get(token, 0.0)
        if len(output) < sampling.min_tokens and token in sampling.stop_ids:
            changed[token] = -float("inf")
    return changed


@settings(max_examples=50, deadline=None)
@given(kinds=st.lists(st.tuples(tokens, tokens, samplings), min_size=1, max_size=4), seed=st.integers(0, 1000), data=st.data())
def test_every_row_gets_its_own(kinds: list[tuple[list[int], list[int], dict[str, Any]]], seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    rows = [
        Row(place, [1, *prompt, *output], 1 + len(prompt), Sampling(**kind)) for place, (prompt, output, kind) in enumerate(kinds)
    ]
    for _ in range(3):
        logits = torch.randn(len(rows), SIZE)
        places = [
            place
            for place, row in enumerate(rows)
            if penalties.changes_logits(row.sampling, len(row.tokens) - row.prompt_tokens)
        ]  # fmt: skip
        wanted = [expected(line, row) for line, row in zip(logits.tolist(), rows, strict=True)]
        penalties.adjust(logits, rows, places)
        torch.testing.assert_close(logits, torch.tensor(wanted))
        for row in rows:  # counts follow as the output grows
            row.tokens += data.draw(tokens)


def test_more_different_tokens_than_there_was_room_for_are_counted() -> None:
    counts = penalties.Counts([5, 5, 300], torch.device("cpu"))
    output = [number % 200 for number in range(500)]
    counts.catch_up([5, *output[:3]], 1)
    counts.catch_up([5, *output], 1)
    ids, missing, times = counts.generated
    assert ids.tolist() == list(range(200))
    assert missing.tolist() == [int(token != 5) for token in range(200)]
    assert times.tolist() == [3 if token < 100 else 2 for token in range(200)]
    assert counts.prompt.tolist() == [5, 300]
