"""From logits to tokens. Greedy rows take the best token; the others invert the distribution function over token ids at one
uniform number that depends on seed and position alone.

Filters apply in this order: min_p, top_k, top_p (of what top_k left), each after the temperature. `draw` only queues work on
an accelerator: whatever a row wants, the host waits for nothing before `finish`. There kernels find what the filters leave
without a sort; on the CPU, and where Triton is missing, the best few are sorted, and all only if those do not suffice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tokenwell.engine.kernels import trust
from tokenwell.engine.platform.accelerator import Readback, readback, upload, uploads
from tokenwell.engine.run import penalties
from tokenwell.engine.run.mask import Mask
from tokenwell.engine.run.noise import uniforms
from tokenwell.engine.run.rows import Row
from tokenwell.wire.messages import TokenLogprob

_CANDIDATES = 1024  # nearly every top_k and top_p is decided among so many
_LAST_UNIFORM = 1.0 - 2.0**-24  # the largest float32 below 1


@dataclass(frozen=True, slots=True)
class Draw:
    """One sampled token."""

    token: int
    logprob: TokenLogprob | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """The tokens of one step, on their way to the host."""

    tokens: torch.Tensor  # [rows] int64, on the device
    _tokens: Readback
    _logprobs: dict[int, int]  # how many alternatives the rows want that want log-probabilities, by place
    _described: Readback | None

    def finish(self) -> list[Draw]:
        """Wait for the tokens."""
        logprobs: dict[int, TokenLogprob] = {}
        if self._described is not None:
            described = _named(self._described.result(), list(self._logprobs.values()))
            logprobs = dict(zip(self._logprobs, described, strict=True))
        return [Draw(token, logprobs.get(place)) for place, token in enumerate(self._tokens.result().tolist())]


def sample(logits: torch.Tensor, rows: Sequence[Row], mask: Mask | None = None) -> list[Draw]:
    """`draw`, and wait for it."""
    return draw(logits, rows, mask).finish()


def draw(logits: torch.Tensor, rows: Sequence[Row], mask: Mask | None) -> Drawn:
    """Queue the choice of a token for each of `rows` from its `logits` [rows, vocabulary], which may be changed.

    `mask` comes last and wins: where penalties and biases leave nothing that it allows, they do not count.
    """
    wanted = {place: row.sampling.logprobs for place, row in enumerate(rows) if row.sampling.logprobs is not None}
    changed = [
        place
        for place, row in enumerate(rows)
        if penalties.changes_logits(row.sampling, len(row.tokens) - row.prompt_tokens)
    ]  # fmt: skip
    if logits.dtype != torch.float32 and (wanted or changed or mask is not None or _need_float32(logits, rows)):
        logits = logits.to(torch.float32)
    raw = index = None  # log-probabilities are those before penalties and temperature
    if wanted:
        index = upload(np.array(list(wanted), dtype=np.int64), logits.device)
        raw = logits if len(wanted) == len(rows) and not changed and mask is None else logits.index_select(0, index)
    free = _unpenalised(logits, mask, changed)
    if changed:
        penalties.adjust(logits, rows, changed)
    if mask is not None:
        _forbid(logits, mask)
    if free is not None:
        _restore(logits, *free)
    tokens = _choose(logits, rows)
    described = None
    if raw is not None and index is not None:
        described = readback(_described(raw, tokens.index_select(0, index), max(wanted.values())))
    return Drawn(tokens, readback(tokens), wanted, described)


def describe(logits: torch.Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """Log-probabilities of `tokens` and of the best alternatives, from logits [rows, vocabulary]."""
    described = _described(logits.to(torch.float32), upload(np.array(tokens, dtype=np.int64), logits.device), max(tops))
    return _named(readback(described).result(), tops)


def _described(logits: torch.Tensor, tokens: torch.Tensor, most: int) -> torch.Tensor:
    """[rows, 1 + 2 * alternatives] int32: the bits of the token's log-probability and of the best ones, and whose those are."""
    whole = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, tokens[:, None]) - whole
    best, ids = logits.topk(min(most, logits.shape[1]), dim=-1)
    return torch.cat([torch.cat([chosen, best - whole], dim=1).view(torch.int32), ids.to(torch.int32)], dim=1)


def _named(described: torch.Tensor, tops: Sequence[int]) -> list[TokenLogprob]:
    count = described.shape[1] // 2
    values = described[:, : count + 1].view(torch.float32).tolist()
    ids = described[:, count + 1 :].tolist()
    return [
        TokenLogprob(logprobs[0], list(zip(row[:top], logprobs[1 : top + 1], strict=False)))
        for logprobs, row, top in zip(values, ids, tops, strict=True)
    ]


def _unpenalised(logits: torch.Tensor, mask: Mask | None, changed: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The rows that have both a mask and penalties or biases, and their masked logits without those; None without such rows."""
    if mask is None or not changed:
        return None
    both = [(entry, place) for entry, place in enumerate(mask.places) if place in set(changed)]
    if not both:
        return None
    index = upload(np.array([place for _, place in both], dtype=np.int64), logits.device)
    plain = logits.index_select(0, index)
    _forbid(plain, Mask(list(range(len(both))), mask.bits[[entry for entry, _ in both]]))
    return index, plain


def _restore(logits: torch.Tensor, index: torch.Tensor, plain: torch.Tensor) -> None:
    """Take the rows `plain` where penalties left nothing that the mask allows."""
    strict = logits.index_select(0, index)
    logits.index_copy_(0, index, torch.where(strict.amax(-1, keepdim=True) == -torch.inf, plain, strict))


def _forbid(logits: torch.Tensor, mask: Mask) -> None:
    """Make the tokens that `mask` does not allow impossible, in place."""
    if trust.reason_not("sampler", logits.device) is None:
        from tokenwell.engine.kernels import sampling

        places, bits = uploads([np.array(mask.places, dtype=np.int64), mask.bits], logits.device)
        sampling.forbid(logits, places, bits)
        return
    barrier = mask.barrier(logits.shape[1], logits.device)
    if len(mask.places) == len(logits):
        logits += barrier
    else:
        logits[mask.places] += barrier


def _need_float32(logits: torch.Tensor, rows: Sequence[Row]) -> bool:
    """Whether `_choose` cannot read 16-bit logits as they are: with filters it reads them several times."""
    return trust.reason_not("sampler", logits.device) is not None or any(map(_filters, rows))


def _choose(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """[rows] int64"""
    if trust.reason_not("sampler", logits.device) is None:
        from tokenwell.engine.kernels import sampling

        table = parameters(rows)
        there = None if table is None else upload(table, logits.device)
        return sampling.choose(logits, there, filters=any(map(_filters, rows)))
    random = [index for index, row in enumerate(rows) if not row.sampling.greedy]
    greedy = [index for index, row in enumerate(rows) if row.sampling.greedy]
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    if greedy:
        tokens[greedy] = (logits if not random else logits[greedy]).argmax(-1)
    filtered = [index for index in random if _filters(rows[index])]
    free = [index for index in random if not _filters(rows[index])]
    if free:
        tokens[free] = _invert(_probabilities(logits, rows, free), _uniforms(rows, free, logits))
    if filtered:
        tokens[filtered] = _filtered(_probabilities(logits, rows, filtered), rows, filtered)
    return tokens


def warm(vocabulary: int, device: torch.device, dtype: torch.dtype) -> None:
    """Compile (or load) the kernels that `draw` may need for a model that computes in `dtype`: no request waits for that."""
    if trust.reason_not("sampler", device) is not None:
        return
    from tokenwell.engine.kernels import sampling

    logits = torch.zeros(1, vocabulary, device=device)
    table = upload(np.array([(1.0, 0.5, 1, 0.5, 0.0)], dtype=np.float32), device)
    for kind in {torch.float32, dtype}:
        for heated in (None, table):
            sampling.choose(logits.to(kind), heated)
    sampling.choose(logits, table, filters=True)
    _forbid(logits, Mask([0], np.zeros((1, -(-vocabulary // 8)), dtype=np.uint8)))


def parameters(rows: Sequence[Row]) -> np.ndarray | None:
    """What the kernels know of each row: [rows, COLUMNS] float32; None if all are greedy."""
    samplings = [row.sampling for row in rows]
    if all(one.temperature == 0.0 for one in samplings):
        return None
    table = np.array([(one.temperature, 0.0, one.top_k, one.top_p, one.min_p) for one in samplings], dtype=np.float32)
    numbers = uniforms([one.seed for one in samplings], [len(row.tokens) for row in rows])
    table[:, 1] = np.minimum(numbers, _LAST_UNIFORM)  # rounding up to 1 would pass the end
    return table


def _filters(row: Row) -> bool:
    return row.sampling.top_p < 1.0 or row.sampling.top_k > 0 or row.sampling.min_p > 0.0


def _probabilities(logits: torch.Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> torch.Tensor:
    heat = torch.tensor([rows[index].sampling.temperature for index in chosen], device=logits.device)
    # The best logit becomes 0 before it is divided, so that a tiny temperature overflows nowhere but towards -inf.
    centred = logits[chosen] - logits[chosen].amax(-1, keepdim=True)
    return (centred / heat[:, None]).softmax(-1)


def _uniforms(rows: Sequence[Row], chosen: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """[chosen, 1] float64"""
    numbers = uniforms([rows[index].sampling.seed for index in chosen], [len(rows[index].tokens) for index in chosen])
    return upload(numbers, like.device)[:, None]


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
    ids, order = ids.sort(dim=-1)
    place = _invert(best.where(inside, 0.0).gather(1, order), _uniforms(rows, chosen, weights))
    return ids.gather(1, place[:, None])[:, 0]
