"""Logits that depend on the tokens that came before, on logit_bias and on min_tokens.

Presence and frequency penalties count generated tokens only, as the OpenAI API reference defines them; the repetition
penalty (Keskar et al. 2019) looks at prompt and output. Only the tokens concerned are touched: the host counts them, and a few
operations on (row, token) pairs serve all rows of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tokenwell.engine.platform.accelerator import upload, uploads
from tokenwell.wire.sampling import Sampling

if TYPE_CHECKING:
    from tokenwell.engine.run.rows import Row


class Counts:
    """How often each token was generated, and which tokens the prompt has; kept only for rows with penalties."""

    def __init__(self, prompt: Sequence[int], device: torch.device) -> None:
        self._in_prompt = set(prompt)
        self.prompt = upload(np.array(sorted(self._in_prompt), dtype=np.int64), device)  # [different tokens] int64
        self._place: dict[int, int] = {}  # of a token in the columns of `_generated`
        self._generated = np.zeros((3, 64), dtype=np.int64)
        self._counted = 0

    def catch_up(self, tokens: Sequence[int], prompt_tokens: int) -> None:
        """Count the generated ones of a row's `tokens` that are not counted yet."""
        for token in tokens[prompt_tokens + self._counted :]:
            place = self._place.setdefault(token, len(self._place))
            if place == self._generated.shape[1]:
                self._generated = np.concatenate([self._generated, np.zeros_like(self._generated)], axis=1)
            self._generated[:2, place] = token, token not in self._in_prompt
            self._generated[2, place] += 1
        self._counted = len(tokens) - prompt_tokens

    @property
    def generated(self) -> np.ndarray:
        """[3, different generated tokens] int64: the token, whether it is missing in the prompt, how often it was generated."""
        return self._generated[:, : len(self._place)]


def changes_logits(sampling: Sampling, generated: int) -> bool:
    """Whether `adjust` would do anything for a row that has generated so many tokens."""
    return sampling.penalised or bool(sampling.logit_bias) or generated < sampling.min_tokens


def adjust(logits: torch.Tensor, rows: Sequence[Row], places: Sequence[int]) -> None:
    """Apply everything to the `rows` at `places`, whose logits [rows, vocabulary] change in place."""
    penalised = [place for place in places if rows[place].sampling.penalised]
    if penalised:
        _penalise(logits, rows, penalised)
    biases = [(place, token, value) for place in places for token, value in rows[place].sampling.logit_bias.items()]
    if biases:
        _add(logits, biases)
    early = [place for place in places if len(rows[place].tokens) - rows[place].prompt_tokens < rows[place].sampling.min_tokens]
    stops = [(place, token, -np.inf) for place in early for token in rows[place].sampling.stop_ids]
    if stops:
        _add(logits, stops)


def _penalise(logits: torch.Tensor, rows: Sequence[Row], places: Sequence[int]) -> None:
    device = logits.device
    counts = [_counts(rows[place], device) for place in places]
    samplings = [rows[place].sampling for place in places]
    table = [(one.repetition_penalty, one.frequency_penalty, one.presence_penalty) for one in samplings]
    repeating = [index for index, one in enumerate(samplings) if one.repetition_penalty != 1.0]
    ends = np.cumsum([len(counts[index].prompt) for index in repeating], dtype=np.int64)
    generated = np.concatenate([one.generated for one in counts], axis=1)
    owners = np.repeat(np.arange(len(places)), [one.generated.shape[1] for one in counts])
    where, owner, pairs, factors, prompts, ended = uploads(
        [
            np.array(places, dtype=np.int64),
            owners.astype(np.int64),
            generated,
            np.array(table, dtype=np.float32),
            np.array(repeating, dtype=np.int64),
            ends,
        ],
        device,
    )
    if repeating:
        owner_of_prompt = prompts[torch.searchsorted(ended, torch.arange(int(ends[-1]), device=device), right=True)]
        at = (where[owner_of_prompt], torch.cat([counts[index].prompt for index in repeating]))
        logits.index_put_(at, _repeated(logits[at], factors[owner_of_prompt, 0]))
    if generated.shape[1]:
        at = (where[owner], pairs[0])
        repetition, frequency, presence = factors[owner].unbind(1)
        value = _repeated(logits[at], torch.where(pairs[1] > 0, repetition, 1.0))  # once, also for what is in the prompt
        logits.index_put_(at, value - frequency * pairs[2] - presence)


def _repeated(logits: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def _add(logits: torch.Tensor, additions: Sequence[tuple[int, int, float]]) -> None:
    """Add to single logits: (row, token, value). What is named twice has the same value."""
    pairs = np.array([(row, token) for row, token, _ in additions], dtype=np.int64)
    where, values = uploads([pairs.T.copy(), np.array([value for *_, value in additions], dtype=np.float32)], logits.device)
    at = (where[0], where[1])
    logits.index_put_(at, logits[at] + values)


def _counts(row: Row, device: torch.device) -> Counts:
    if row.counts is None:
        row.counts = Counts(row.tokens[: row.prompt_tokens], device)
    row.counts.catch_up(row.tokens, row.prompt_tokens)
    return row.counts
