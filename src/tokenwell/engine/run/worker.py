"""One rank: a loaded model, its page pool and the rows in their slots. Executes StepPlans; decides nothing.

Every rank gets the same plans and keeps the same rows. Rank 0 alone chooses tokens; the others are told them on the device.

A step is three calls: `launch` queues the forward pass, `draw` the choice of tokens, `collect` waits for them. On accelerators
the next step may be launched before an earlier one is collected: the tokens in between never leave the device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from tokenwell.engine.models.registry import Model
from tokenwell.engine.platform.accelerator import graphs_reason_not, uploads
from tokenwell.engine.run import batch as batches
from tokenwell.engine.run.batch import Batch, GroupBatch, Work
from tokenwell.engine.run.grammar import Grammars
from tokenwell.engine.run.graphs import DecodeGraphs, StepMemory
from tokenwell.engine.run.kv import KvPool
from tokenwell.engine.run.mask import Masks
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.run.prompt_graphs import PromptGraphs, most_pairs
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.sampler import Draw, Drawn, describe, draw, warm
from tokenwell.engine.run.shared import shared_pages
from tokenwell.engine.run.shared_graphs import SharedGraphs
from tokenwell.engine.run.tables import PageTables
from tokenwell.engine.schedule.plan import AddRow, RunRow, Sampled, StepPlan, StepResult
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.capacity import recorded_bytes
from tokenwell.wire.messages import TokenLogprob

log = logging.getLogger("tokenwell.engine")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Logits are float32 over the whole vocabulary: a long prompt's are described in pieces of so many rows.
_DESCRIBED_ROWS = 64
_CPU_RECORDED_ROWS = 16  # beyond that arithmetic takes longer than Python


@dataclass(frozen=True)
class Beside:
    """What is recorded beside decode steps."""

    prompt_tokens: int = 0  # steps whose prompts have so many tokens at most
    shared_bytes: int = 0  # decode steps whose rows share so much that a layer need not read so many bytes; 0: none


NOTHING = Beside()


class Recorded(Protocol[T_co]):
    """Recordings of one kind of step."""

    what: str  # in words

    def has(self, work: Sequence[Work]) -> bool:
        """Whether the step of `work` is recorded."""

    def run(self, work: Sequence[Work]) -> T_co | None:
        """Queue it, recording it first where that pays; None when it has to be launched."""


@dataclass(slots=True)
class Step:
    """A plan on its way through the device."""

    plan: StepPlan
    sampled: list[Row] = field(default_factory=list)  # the rows whose next token is chosen
    logits: torch.Tensor | None = None  # [sampled, vocabulary]
    prompt_logprobs: dict[int, list[TokenLogprob]] = field(default_factory=dict)
    drawn: Drawn | None = None


class Worker:
    """Runs steps on one device."""

    def __init__(
        self, model: Model, groups: tuple[KvGroup, ...], pool: KvPool, device: torch.device, grammars: Grammars, *,
        max_num_seqs: int, max_model_len: int, graphs: bool = True, beside: Beside = NOTHING, step_bytes: int = 0,
        ranks: Ranks | None = None,
    ) -> None:  # fmt: skip
        """`graphs`: decode steps are recorded, and what `beside` says, on accelerators. `step_bytes`: of the largest step."""
        self.model = model
        self.ranks = Ranks() if ranks is None else ranks
        self.grammars = grammars
        self.device = device
        self.pool = pool
        self.step_bytes = step_bytes
        self.overlaps = device.type != "cpu"  # whether `launch` returns before its work is done
        self.rows: dict[int, Row] = {}
        self._warm = device.type == "cpu"  # whether all of the sampler's kernels are compiled
        self._masks = Masks(grammars)
        self._tables = PageTables(groups, max_num_seqs, max_model_len, device)
        self._groups = tuple(
            GroupBatch(group.page_tokens, table) for group, table in zip(groups, self._tables.tables, strict=True)
        )
        layers = model.facts.layers
        self._caches = [pool.caches[index if layer.owner is None else layer.owner] for index, layer in enumerate(layers)]
        self._last_tokens = torch.zeros(max_num_seqs + 1, dtype=torch.int64, device=device)  # by slot: what was sampled last
        self.graphs: DecodeGraphs | None = None
        self.prompt_graphs: PromptGraphs | None = None
        self.shared_graphs: SharedGraphs | None = None
        if graphs and graphs_reason_not(device) is None:
            memory = StepMemory(self._groups, self._caches, self._tables, self._last_tokens, max_model_len)
            self.graphs = DecodeGraphs(self._logits, memory, self._most_recorded(max_num_seqs))
            if beside.prompt_tokens:
                self.prompt_graphs = PromptGraphs(
                    self.model.forward, memory, self.graphs, max_num_seqs, beside.prompt_tokens, most_pairs(layers),
                    self.planned_bytes, self.ranks,
                )  # fmt: skip
            pages = shared_pages(groups, self._tables, beside.shared_bytes) if beside.shared_bytes else None
            if pages is not None:
                self.shared_graphs = SharedGraphs(self.graphs, pages, self.planned_bytes, self.ranks)

    def planned_bytes(self) -> int:
        """What the largest step and decode steps that are not recorded yet take once they come."""
        missing = [] if self.graphs is None else self.graphs.missing
        return self.step_bytes + recorded_bytes(missing, self.model.facts.vocabulary)

    def forget_rows(self) -> None:
        """Empty every slot, for a scheduler that starts afresh."""
        self.rows.clear()

    def forget_recordings(self) -> None:
        """Launch all steps from now on; recordings hold on to the transport between ranks."""
        self.graphs = self.prompt_graphs = self.shared_graphs = None

    @torch.inference_mode()
    def prepare(self) -> bool:
        """Use an idle moment: compile what filters need, record one more batch size, before somebody waits for it.

        False when there was nothing left to prepare.
        """
        if not self._warm and self.ranks.leads:
            warm(self.model.facts.vocabulary, self.device, self.model.dtype)
            self._warm = True
            return True
        if self.graphs is None or self.ranks.world > 1:  # several ranks record together, when a plan needs it
            return False
        for kind in (self.graphs, self.prompt_graphs, self.shared_graphs):
            if kind is None:
                continue
            try:
                if kind.record_next():
                    return True
            except RuntimeError as error:
                self._stop_recording(kind, error)
                return False
        return False

    def run(self, plan: StepPlan) -> StepResult:
        """Execute one plan and wait for it."""
        step = self.launch(plan)
        self.draw(step)
        return self.collect(step)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Step:
        """Queue a plan's forward pass, on every rank when this one leads them."""
        self.ranks.announce(plan)
        for slot in plan.drop:
            del self.rows[slot]
        self.pool.copy(plan.copies)
        for added in plan.add:
            self.rows[added.row] = self._row(added)
            self._tables.place(added.row, added.pages)
        for run in plan.run:
            self._tables.append(run.row, run.pages)
        self._tables.flush()
        step = Step(plan)
        if not plan.run:
            return step
        runs = batches.order(plan.run)
        work = [self._work(run) for run in runs]
        if self.graphs is not None and not any(map(self._wants_prompt, runs)):
            wanted = [place for place, run in enumerate(runs) if run.sample]
            if self._replay(step, work, wanted):
                step.sampled = [work[place].row for place in wanted]
                return step
        self._forward(step, runs, work)
        return step

    @torch.inference_mode()
    def draw(self, step: Step) -> None:
        """Queue the choice of a launched step's tokens. Every earlier step must have been collected."""
        if step.logits is None:
            return
        if self.ranks.leads:
            mask = self._masks.compute([row.constraint for row in step.sampled])
            step.drawn = draw(step.logits, step.sampled, mask)
            tokens = step.drawn.tokens
        else:
            tokens = torch.empty(len(step.sampled), dtype=torch.int64, device=self.device)
        (slots,) = uploads([np.array([row.slot for row in step.sampled], dtype=np.int64)], self.device)
        self._last_tokens.index_copy_(0, slots, self.ranks.share(tokens))
        step.logits = None

    def collect(self, step: Step) -> StepResult:
        """Wait for a step's tokens and append them to their rows; on rank 0 only, the others find them on their devices."""
        sampled: list[Sampled] = []
        if step.drawn is not None:
            sampled = [_booked(row, one) for row, one in zip(step.sampled, step.drawn.finish(), strict=True)]
        return StepResult(step.plan.step, tuple(sampled), step.prompt_logprobs)

    def _replay(self, step: Step, work: list[Work], wanted: list[int]) -> bool:
        """Logits of the rows at the places `wanted` by a recorded step; False when there is none."""
        if work[-1].count == 1:
            logits = self._replay_decode(work)
            if logits is not None:
                step.logits = logits if len(wanted) == len(work) else self._pick(logits, wanted)
            return logits is not None
        replayed = self._replayed(self.prompt_graphs, work)
        if replayed is None:
            return False
        hidden, places = replayed
        if wanted:
            step.logits = self.model.logits(self._pick(hidden, [places[place] for place in wanted]))
        return True

    def _replay_decode(self, work: list[Work]) -> torch.Tensor | None:
        """Logits of single tokens by a recorded step; None when there is none."""
        if self.graphs is None or len(work) > self.graphs.sizes[-1]:
            return None
        logits = self._replayed(self.shared_graphs, work)
        return self._replayed(self.graphs, work) if logits is None else logits

    def _replayed(self, kind: Recorded[T] | None, work: list[Work]) -> T | None:
        """What a kind of recordings makes of `work`; None, too, when that cannot be recorded, which is not tried again."""
        if kind is None:
            return None
        try:
            return kind.run(work)
        except RuntimeError as error:
            if kind.has(work):
                raise
            self._stop_recording(kind, error)
            return None

    def _stop_recording(self, kind: Recorded[Any], error: RuntimeError) -> None:
        log.warning("%s are not recorded: %s", kind.what, str(error).splitlines()[0])
        if kind is self.graphs:
            self.forget_recordings()
        elif kind is self.prompt_graphs:
            self.prompt_graphs = None
        else:
            self.shared_graphs = None

    def _forward(self, step: Step, runs: list[RunRow], work: list[Work]) -> None:
        """The forward pass without a graph; logits of the rows to sample and log-probabilities of prompts."""
        batch = batches.build(work, self._groups, self._caches, self._tables, self._last_tokens)
        hidden = self.model.forward(batch)
        kept = [(run, item.row) for run, item in zip(runs, work, strict=True) if item.keep]
        last = []
        for (run, row), span in zip(kept, batch.kept().spans, strict=True):
            if self._wants_prompt(run):
                step.prompt_logprobs[run.row] = self._describe(run, hidden[span.offset : span.offset + span.count])
            if run.sample:
                last.append(span.offset + span.count - 1)
                step.sampled.append(row)
        if last:
            step.logits = self.model.logits(hidden if last == list(range(len(hidden))) else self._pick(hidden, last))

    def _most_recorded(self, max_num_seqs: int) -> int:
        """Rows up to which steps are recorded; on a CPU padding rows cost time."""
        return min(max_num_seqs, _CPU_RECORDED_ROWS) if self.device.type == "cpu" else max_num_seqs

    def _logits(self, batch: Batch) -> torch.Tensor:
        return self.model.logits(self.model.forward(batch))

    def _pick(self, tensor: torch.Tensor, places: list[int]) -> torch.Tensor:
        """Some rows of a tensor."""
        (index,) = uploads([np.array(places, dtype=np.int64)], self.device)
        return tensor.index_select(0, index)

    def _row(self, added: AddRow) -> Row:
        row = Row.from_plan(added)
        if added.sampling.grammar is not None and self.ranks.leads:
            output = added.tokens[added.prompt_tokens :]
            row.constraint = self._masks.constrain(added.sampling.grammar, added.sampling.stop_ids, output)
        return row

    def _work(self, run: RunRow) -> Work:
        keep = run.count if self._wants_prompt(run) else int(run.sample)
        return Work(self.rows[run.row], run.start, run.count, keep)

    def _wants_prompt(self, run: RunRow) -> bool:
        """Whether some position of the run predicts a prompt token whose log-probability is wanted."""
        row = self.rows[run.row]
        return row.sampling.prompt_logprobs is not None and run.start + 1 < row.prompt_tokens

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


def _booked(row: Row, one: Draw) -> Sampled:
    """Append the drawn token to its row, if the row's grammar still wants one, and say what that means."""
    constraint = row.constraint
    if constraint is None:
        row.tokens.append(one.token)
        return Sampled(row.slot, one.token, one.logprob)
    if constraint.over:
        return Sampled(row.slot, None, None, constraint.ended, constraint.error)
    row.tokens.append(one.token)
    constraint.take(one.token)
    return Sampled(row.slot, one.token, one.logprob, constraint.ended, constraint.error)
