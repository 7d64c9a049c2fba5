"""Logits that depend on the tokens that came before, on logit_bias and on min_tokens.

Presence and frequency penalties count generated tokens only, as the OpenAI API reference defines them; the repetition
penalty (Keskar et al. 2019) looks at prompt and output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tokenwell.wire.sampling import Sampling


class Counts:
    """How often each token was generated, and which tokens occur at all; kept only for rows with penalties."""

    def __init__(self, prompt: Sequence[int], output: Sequence[int], vocabulary: int, device: torch.device) -> None:
        self.generated = torch.zeros(vocabulary, dtype=torch.float32, device=device)
        self.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self.seen[torch.tensor(prompt, dtype=torch.int64, device=device)] = True
        self._counted = len(prompt)
        self.catch_up(output, self._counted)

    def catch_up(self, tokens: Sequence[int], prompt_tokens: int) -> None:
        """Count the generated tokens that are not counted yet; `tokens` are all generated ones."""
        new = tokens[self._counted - prompt_tokens :]
        if new:
            ids = torch.tensor(new, dtype=torch.int64, device=self.seen.device)
            self.generated.index_add_(0, ids, torch.ones(len(new), device=self.seen.device))
            self.seen[ids] = True
            self._counted += len(new)


def changes_logits(sampling: Sampling, generated: int) -> bool:
    """Whether `adjust` would do anything for a row that has generated so many tokens."""
    return sampling.penalised or bool(sampling.logit_bias) or generated < sampling.min_tokens


def adjust(logits: torch.Tensor, sampling: Sampling, counts: Counts | None, generated: int) -> None:
    """Apply everything to one row's logits [vocabulary], in place."""
    if counts is not None:
        if sampling.repetition_penalty != 1.0:
            scaled = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
            torch.where(counts.seen, scaled, logits, out=logits)
        if sampling.frequency_penalty != 0.0:
            logits -= sampling.frequency_penalty * counts.generated
        if sampling.presence_penalty != 0.0:
            logits -= sampling.presence_penalty * (counts.generated > 0)
    if sampling.logit_bias:
        ids = torch.tensor(list(sampling.logit_bias), dtype=torch.int64, device=logits.device)
        values = torch.tensor(list(sampling.logit_bias.values()), dtype=logits.dtype, device=logits.device)
        logits.index_add_(0, ids, values)
    if generated < sampling.min_tokens and sampling.stop_ids:
        logits[torch.tensor(sampling.stop_ids, dtype=torch.int64, device=logits.device)] = -torch.inf
