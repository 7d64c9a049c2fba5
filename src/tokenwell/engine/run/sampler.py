"""From logits to tokens. Greedy rows take the best token; the others invert the cumulative distribution at one uniform
number that depends on seed and position alone.

Filters apply in this order: min_p, top_k, top_p (of what top_k left), each after the temperature. The vocabulary is only
sorted when a filter needs more candidates than the best few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tokenwell.engine.run import penalties
from tokenwell.engine.run.mask import Mask
from tokenwell.engine.run.noise import uniform
from tokenwell.engine.run.rows import Row
from tokenwell.wire.messages import TokenLogprob

_CANDIDATES = 1024  # nearly every top_k and top_p is decided among so many


@dataclass(frozen=True, slots=True)
class Draw:
    """One sampled token."""

    token: int
    logprob: TokenLogprob | None


def sample(logits: torch.Tensor, rows: Sequence[Row], mask: Mask | None = None) -> list[Draw]:
    """A token for each of `rows` from its `logits` [rows, vocabulary] float32, which may be changed.

    `mask` comes last and wins: where penalties and biases leave nothing that it allows, they do not count.
    """
    wanted = [index for index, row in enumerate(rows) if row.sampling.logprobs is not None]
    raw = logits[wanted].clone() if wanted else None  # before penalties and temperature
    constrained = frozenset(mask.places) if mask is not None else frozenset()
    plain: dict[int, torch.Tensor] = {}  # constrained rows before their penalties
    for index, row in enumerate(rows):
        generated = len(row.tokens) - row.prompt_tokens
        if penalties.changes_logits(row.sampling, generated):
            if index in constrained:
                plain[index] = logits[index].clone()
            penalties.adjust(logits[index], row.sampling, _counts(row, logits), generated)
    if mask is not None:
        _forbid(logits, mask, plain)
    tokens = _choose(logits, rows)
    logprobs: dict[int, TokenLogprob] = {}
    if raw is not None:
        tops = [rows[index].sampling.logprobs or 0 for index in wanted]
        described = describe(raw, [tokens[index] for index in wanted], tops)
        logprobs = dict(zip(wanted, described, strict=True))
    return [Draw(token, logprobs.get(index)) for index, token in enumerate(tokens)]


def describe(logits: torch.Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log-probabilities of `tokens` and of the best alternatives, from logits [rows, vocabulary] in float32."""
    table = logits.log_softmax(-1)
    index = torch.tensor(tokens, dtype=torch.int64, device=table.device)[:, None]
    chosen = table.gather(1, index)[:, 0].tolist()
    most = min(max(tops), table.shape[1])
    if most == 0:
        return [TokenLogprob(logprob) for logprob in chosen]
    values, ids = table.topk(most, dim=-1)
    best = [list(zip(*pair, strict=True)) for pair in zip(ids.tolist(), values.tolist(), strict=True)]
    return [TokenLogprob(logprob, row[:top]) for logprob, row, top in zip(chosen, best, tops, strict=True)]


def _forbid(logits: torch.Tensor, mask: Mask, plain: dict[int, torch.Tensor]) -> None:
    """Make the tokens that `mask` does not allow impossible, in place."""
    barrier = mask.barrier(logits.shape[1], logits.device)
    if len(mask.places) == len(logits):
        logits += barrier
    else:
        logits[mask.places] += barrier
    for place, row in enumerate(mask.places):
        if row in plain and bool((logits[row] == -torch.inf).all()):
            logits[row] = plain[row] + barrier[place]


def _counts(row: Row, logits: torch.Tensor) -> penalties.Counts | None:
    if not row.sampling.penalised:
        return None
    output = row.tokens[row.prompt_tokens :]
    if row.counts is None:
        row.counts = penalties.Counts(row.tokens[: row.prompt_tokens], output, logits.shape[1], logits.device)
    row.counts.catch_up(output, row.prompt_tokens)
    return row.counts


def _choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    random = [index for index, row in enumerate(rows) if not row.sampling.greedy]
    if not random:
        chosen: list[int] = logits.argmax(-1).tolist()
        return chosen
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    if len(random) < len(rows):
        greedy = [index for index, row in enumerate(rows) if row.sampling.greedy]
        tokens[greedy] = logits[greedy].argmax(-1)
    filtered = [index for index in random if _filters(rows[index])]
    free = [index for index in random if not _filters(rows[index])]
    if free:
        tokens[free] = _invert(_probabilities(logits, rows, free), _uniforms(rows, free, logits))
    if filtered:
        tokens[filtered] = _filtered(_probabilities(logits, rows, filtered), rows, filtered)
    drawn: list[int] = tokens.tolist()
    return drawn


def _filters(row: Row) -> bool:
    return row.sampling.top_p < 1.0 or row.sampling.top_k > 0 or row.sampling.min_p > 0.0


def _probabilities(logits: torch.Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> torch.Tensor:
    heat = torch.tensor([rows[index].sampling.temperature for index in chosen], device=logits.device)
    # The best logit becomes 0 before it is divided, so that a tiny temperature overflows nowhere but towards -inf.
    centred = logits[chosen] - logits[chosen].amax(-1, keepdim=True)
    return (centred / heat[:, None]).softmax(-1)


def _uniforms(rows: Sequence[Row], chosen: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """[chosen, 1] float64"""
    numbers = [uniform(rows[index].sampling.seed, len(rows[index].tokens)) for index in chosen]
    return torch.tensor(numbers, dtype=torch.float64, device=like.device)[:, None]


def _invert(weights: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first index where the cumulative weight passes number * total: [rows]. Indices of weight 0 are never taken."""
    total = weights.cumsum(-1, dtype=torch.float64)
    # A product that rounds up to the total itself would pass the end.
    limit = torch.minimum(numbers * total[:, -1:], torch.nextafter(total[:, -1:], torch.zeros_like(total[:, -1:])))
    return torch.searchsorted(total, limit, right=True)[:, 0].clamp_(max=weights.shape[1] - 1)


def _filtered(weights: torch.Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> torch.Tensor:
    """Sample among the tokens that min_p, top_k and top_p leave: [chosen]."""
    vocabulary = weights.shape[1]
    device = weights.device
    samplings = [rows[index].sampling for index in chosen]
    top_k = torch.tensor([min(s.top_k, vocabulary) if s.top_k > 0 else vocabulary for s in samplings], device=device)[:, None]
    top_p = torch.tensor([s.top_p for s in samplings], device=device)[:, None]
    floor = torch.tensor([s.min_p for s in samplings], device=device)[:, None] * weights.amax(-1, keepdim=True)
    count = min(_CANDIDATES, vocabulary)
    best, ids = weights.topk(count, dim=-1)
    mass = weights.sum(-1, keepdim=True)
    # Complete: no token outside the candidates survives min_p and top_k. Enough: both are off and top_p ends among them.
    complete = (top_k <= count) | (best[:, -1:] < floor)
    enough = (floor == 0.0) & (top_k == vocabulary) & (top_p < 1.0) & (best.sum(-1, keepdim=True) >= top_p * mass)
    if count < vocabulary and not bool((complete | enough).all()):
        best, ids = weights.sort(dim=-1, descending=True)
        complete = torch.ones_like(complete)
    best = best.where(best >= floor, 0.0)
    best = best.where(torch.arange(best.shape[1], device=device) < top_k, 0.0)
    # top_p counts in what min_p and top_k left.
    whole = torch.where(complete, best.sum(-1, keepdim=True), mass)
    before = best.cumsum(-1) - best
    # The most likely token always stays, also for a top_p of (nearly) 0.
    inside = (before < top_p * whole) | (torch.arange(best.shape[1], device=device) == 0)
    place = _invert(best.where(inside, 0.0), _uniforms(rows, chosen, weights))
    return ids.gather(1, place[:, None])[:, 0]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of one step."""

    tokens: torch.Tensor  # [rows] int64, on the device
    draws: list[Draw]

    def finish(self) -> list[Draw]:
        """The tokens on the host."""
        return self.draws


def draw(logits: torch.Tensor, rows: Sequence[Row], mask: Mask | None) -> Drawn:
    """Queue the choice of a token for each of `rows`."""
    draws = sample(logits, rows, mask)
    return Drawn(torch.tensor([one.token for one in draws], device=logits.device), draws)
