"""One rank: a loaded model, its page pool and the rows in their slots. Executes StepPlans; decides nothing.

Every rank gets the same plans and keeps the same rows; all compute the same tokens, rank 0 reports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import torch

from tokenwell.engine.models.registry import Model
from tokenwell.engine.run import batch as batches
from tokenwell.engine.run.grammar import Grammars
from tokenwell.engine.run.kv import KvPool
from tokenwell.engine.run.mask import Mask, Masks
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.sampler import Draw, describe, sample
from tokenwell.engine.schedule.plan import AddRow, RunRow, Sampled, StepPlan, StepResult
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.messages import TokenLogprob

# Logits are float32 over the whole vocabulary: a long prompt's are described in pieces of so many rows.
_DESCRIBED_ROWS = 64


class Worker:
    """Runs steps on one device."""

    def __init__(self, model: Model, groups: tuple[KvGroup, ...], pool: KvPool, device: torch.device, grammars: Grammars) -> None:
        self.model = model
        self.grammars = grammars
        self._masks = Masks(grammars, device)
        self.device = device
        self.pool = pool
        self._page_tokens = [group.page_tokens for group in groups]
        layers = model.facts.layers
        owners = [index if layer.owner is None else layer.owner for index, layer in enumerate(layers)]
        self._caches = [pool.caches[owner] for owner in owners]
        self.rows: dict[int, Row] = {}

    def forget_rows(self) -> None:
        """Empty every slot, for a scheduler that starts afresh."""
        self.rows.clear()

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        """Execute one plan."""
        for slot in plan.drop:
            del self.rows[slot]
        self.pool.copy(plan.copies)
        for added in plan.add:
            self.rows[added.row] = self._row(added)
        if not plan.run:
            return StepResult(plan.step)
        runs = batches.order(plan.run)
        for run in runs:
            self.rows[run.row].extend(run)
        batch = batches.build([self._work(run) for run in runs], self._page_tokens, self._caches, self.device)
        mask = self._masks.start([self.rows[run.row].constraint for run in runs if run.sample])
        hidden = self.model.forward(batch)
        kept = [(runs[row], span) for row, span in zip(batch.keep_rows, batch.keep_spans, strict=True)]
        prompt_logprobs = {
            run.row: self._describe(run, hidden[span.offset : span.offset + span.count])
            for run, span in kept
            if self._wants_prompt(run)
        }
        sampled = self._sample(hidden, [(run, span.offset + span.count - 1) for run, span in kept if run.sample], mask)
        return StepResult(plan.step, tuple(sampled), prompt_logprobs)

    def _row(self, added: AddRow) -> Row:
        row = Row.from_plan(added)
        if added.sampling.grammar is not None:
            output = added.tokens[added.prompt_tokens :]
            row.constraint = self._masks.constrain(added.sampling.grammar, added.sampling.stop_ids, output)
        return row

    def _work(self, run: RunRow) -> batches.Work:
        keep = run.count if self._wants_prompt(run) else int(run.sample)
        return batches.Work(self.rows[run.row], run.start, run.count, keep)

    def _wants_prompt(self, run: RunRow) -> bool:
        """Whether some position of the run predicts a prompt token whose log-probability is wanted."""
        row = self.rows[run.row]
        return row.sampling.prompt_logprobs is not None and run.start + 1 < row.prompt_tokens

    def _sample(self, hidden: torch.Tensor, wanted: list[tuple[RunRow, int]], masking: Future[Mask] | None) -> Iterator[Sampled]:
        if not wanted:
            return
        indices = [index for _, index in wanted]
        chosen = hidden if indices == list(range(len(hidden))) else hidden[indices]
        rows = [self.rows[run.row] for run, _ in wanted]
        logits = self.model.logits(chosen)
        mask = None if masking is None else masking.result()
        for (run, _), row, draw in zip(wanted, rows, sample(logits, rows, mask), strict=True):
            yield _booked(run.row, row, draw)

    def _describe(self, run: RunRow, hidden: torch.Tensor) -> list[TokenLogprob]:
        """Log-probabilities of the prompt tokens that positions start .. start + count predict."""
        row = self.rows[run.row]
        targets = row.tokens[run.start + 1 : min(run.start + run.count + 1, row.prompt_tokens)]
        top = row.sampling.prompt_logprobs or 0
        described: list[TokenLogprob] = []
        for first in range(0, len(targets), _DESCRIBED_ROWS):
            piece = targets[first : first + _DESCRIBED_ROWS]
            logits = self.model.logits(hidden[first : first + len(piece)])
            described += describe(logits, piece, [top] * len(piece))
        return described


def _booked(slot: int, row: Row, draw: Draw) -> Sampled:
    """Append the drawn token to its row, if the row's grammar still wants one, and say what that means."""
    constraint = row.constraint
    if constraint is None:
        row.tokens.append(draw.token)
        return Sampled(slot, draw.token, draw.logprob)
    if constraint.over:
        return Sampled(slot, None, None, constraint.ended, constraint.error)
    row.tokens.append(draw.token)
    constraint.take(draw.token)
    return Sampled(slot, draw.token, draw.logprob, constraint.ended, constraint.error)
