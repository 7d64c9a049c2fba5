"""A device that executes plans on a pool of token histories and checks that every row sees exactly what it should.

A slot of a page holds what a key would depend on: the position and all tokens up to it. The "model" reads those through
the page tables, as an attention kernel would, and derives the next token from what it reads. Plans are executed in order, and
as late as possible: when their results are collected.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tokenwell.engine.schedule.plan import RunRow, Sampled, StepPlan, StepResult
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.cache import NULL_PAGE, KvGroup, first_live_page
from tokenwell.wire.messages import Generate, Output, TokenLogprob
from tokenwell.wire.sampling import Sampling

VOCABULARY = 5

History = tuple[int, int]  # position, hash of the tokens up to it


def group(page_tokens: int, window: int | None = None) -> KvGroup:
    """A group of which only the paging matters."""
    name = "full" if window is None else f"sliding-{window}"
    return KvGroup(name, (0,), 1, 1, window, 2, page_tokens)


def extend(values: list[History], tokens: list[int]) -> list[History]:
    """Add what the slots of the tokens behind `values` must hold."""
    for position in range(len(values), len(tokens)):
        digest = values[-1][1] if values else 0
        values.append((position, hash((digest, tokens[position]))))
    return values


def next_token(seen: History, vocabulary: int = VOCABULARY) -> int:
    """The model: what follows a history."""
    return hash(seen) % vocabulary


class Verdict(NamedTuple):
    """What a row's grammar makes of its token number `generated`."""

    wanted: bool = True  # otherwise it was over before
    ended: bool = False
    error: str | None = None


def verdict(sampling: Sampling, generated: int) -> Verdict:
    """A grammar of these tests is "<kind> <tokens>": what happens at the token of that number, counted from 1."""
    if sampling.grammar is None:
        return Verdict()
    kind, at = sampling.grammar.split()
    if generated < int(at):
        return Verdict()
    if generated > int(at):
        return Verdict(False, True)
    return {
        "ends": Verdict(True, True),
        "over": Verdict(False, True),
        "breaks": Verdict(True, False, "broken"),
        "fails": Verdict(False, False, "failed"),
    }[kind]


class Continuation(NamedTuple):
    """What a request must bring."""

    tokens: list[int]
    finish: str
    stop_id: int | None


def continuation(prompt: list[int], sampling: Sampling, max_model_len: int) -> Continuation:
    """The tokens that a request must bring and why it ends, computed without any scheduler."""
    tokens, values = list(prompt), []
    limit = min(len(prompt) + sampling.max_tokens, max_model_len)
    while len(tokens) < limit:
        generated = len(tokens) - len(prompt) + 1
        token = next_token(extend(values, tokens)[-1])
        grammar = verdict(sampling, generated)
        if grammar.wanted:
            tokens.append(token)
        stopped = grammar.wanted and token in sampling.stop_ids and generated > sampling.min_tokens
        if stopped or grammar.ended or grammar.error:
            finish = "error" if grammar.error else "stop"
            return Continuation(tokens[len(prompt) :], finish, token if stopped else None)
    return Continuation(tokens[len(prompt) :], "length", None)


def prompt_logprob(position: int, token: int) -> TokenLogprob:
    """What the device reports for the prompt token at a position."""
    return TokenLogprob(-(position + token / 10))


@dataclass
class Row:
    """What a rank remembers of a row."""

    tokens: list[int]
    prompt_tokens: int
    sampling: Sampling
    tables: list[list[int]]
    values: list[History] = field(default_factory=list)
    computed: int | None = None  # unknown until the row runs: a prefix hit starts it anywhere


@dataclass
class Device:
    """One rank."""

    groups: tuple[KvGroup, ...]
    num_pages: int
    max_num_seqs: int
    max_tokens: int
    rows: dict[int, Row] = field(default_factory=dict)
    pages: dict[int, dict[int, History]] = field(default_factory=dict)
    queue: deque[StepPlan] = field(default_factory=deque)
    launched: int = 0
    steps: int = 0  # executed ones
    computed_tokens: int = 0

    def launch(self, plan: StepPlan) -> None:
        """Queue one plan; the host knows nothing of what the plans before it sample."""
        self.launched += 1
        assert plan.step == self.launched and len(self.queue) < 2
        unknown = {run.row for run in self.queue[-1].run if run.sample} if self.queue else set()
        unknown -= {*plan.drop, *(add.row for add in plan.add)}
        for run in plan.run:
            assert run.pending == (run.row in unknown)
            assert not run.pending or run.count == 1
        self.queue.append(plan)

    def collect(self) -> StepResult:
        """Execute the oldest plan; assertion errors tell where it is wrong."""
        return self._execute(self.queue.popleft())

    def execute(self, plan: StepPlan) -> StepResult:
        """Run one plan while no other is in flight."""
        self.launch(plan)
        assert len(self.queue) == 1
        return self.collect()

    def _execute(self, plan: StepPlan) -> StepResult:
        self.steps += 1
        assert plan.run and 0 < plan.tokens <= self.max_tokens
        self.computed_tokens += plan.tokens
        for row in plan.drop:
            del self.rows[row]  # a KeyError: dropped, but never added
        read = [(target, dict(self.pages.get(source, {}))) for source, target in plan.copies]
        assert not {source for source, _ in plan.copies} & {target for _, target in plan.copies}
        self.pages.update(read)
        for add in plan.add:
            assert add.row not in self.rows and 0 <= add.row < self.max_num_seqs
            self.rows[add.row] = Row(list(add.tokens), add.prompt_tokens, add.sampling, [list(pages) for pages in add.pages])
        assert len({run.row for run in plan.run}) == len(plan.run)
        for run in plan.run:
            self._append_pages(run)
        self._check_writers(plan)
        for run in plan.run:
            self._write(run)
        results = [self._compute(run) for run in plan.run]
        return StepResult(
            plan.step,
            tuple(sampled for sampled, _ in results if sampled),
            {run.row: logprobs for run, (_, logprobs) in zip(plan.run, results, strict=True) if logprobs},
        )

    def _append_pages(self, run: RunRow) -> None:
        row = self.rows[run.row]
        assert run.count > 0 and run.start + run.count <= len(row.tokens)
        assert row.computed in (None, run.start), "a row must continue where it stopped"
        row.computed = run.start
        for table, pages in zip(row.tables, run.pages, strict=True):
            assert NULL_PAGE not in pages and all(page < self.num_pages for page in pages)
            table.extend(pages)

    def _check_writers(self, plan: StepPlan) -> None:
        """Every page that is written is in one live place of one row, and copies go to such pages only."""
        places: dict[int, int] = {}
        for row in self.rows.values():
            for kv, table in zip(self.groups, row.tables, strict=True):
                for page in table[first_live_page(row.computed or 0, kv.window, kv.page_tokens) :]:
                    places[page] = places.get(page, 0) + 1
        written = [target for _, target in plan.copies]
        for run in plan.run:
            for kv, table in zip(self.groups, self.rows[run.row].tables, strict=True):
                written += table[run.start // kv.page_tokens : (run.start + run.count - 1) // kv.page_tokens + 1]
        assert NULL_PAGE not in written
        for page in written:
            assert places[page] == 1, f"page {page} is written but held {places[page]} times"

    def _write(self, run: RunRow) -> None:
        row = self.rows[run.row]
        values = extend(row.values, row.tokens)
        for kv, table in zip(self.groups, row.tables, strict=True):
            for position in range(run.start, run.start + run.count):
                page, slot = table[position // kv.page_tokens], position % kv.page_tokens
                self.pages.setdefault(page, {})[slot] = values[position]

    def _compute(self, run: RunRow) -> tuple[Sampled | None, list[TokenLogprob]]:
        row = self.rows[run.row]
        values, seen = row.values, None
        for query in range(run.start, run.start + run.count):
            for kv, table in zip(self.groups, row.tables, strict=True):
                for position in range(0 if kv.window is None else max(0, query - kv.window + 1), query + 1):
                    page = table[position // kv.page_tokens]
                    assert page != NULL_PAGE
                    seen = self.pages[page].get(position % kv.page_tokens)
                    assert seen == values[position], f"row {run.row} sees {seen} at position {position} from {query}"
        row.computed = end = run.start + run.count
        logprobs = []
        if row.sampling.prompt_logprobs is not None:
            logprobs = [prompt_logprob(at, row.tokens[at]) for at in range(run.start + 1, min(end + 1, row.prompt_tokens))]
        if not run.sample:
            return None, logprobs
        assert end == len(row.tokens) and seen is not None
        row.tokens.append(next_token(seen))
        grammar = verdict(row.sampling, end + 1 - row.prompt_tokens)
        if not grammar.wanted:
            return Sampled(run.row, None, None, grammar.ended, grammar.error), logprobs
        logprob = None if row.sampling.logprobs is None else TokenLogprob(-float(end))
        return Sampled(run.row, row.tokens[-1], logprob, grammar.ended, grammar.error), logprobs


@dataclass
class Told:
    """What one request was told, all outputs together."""

    tokens: list[int] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    @property
    def finish(self) -> str | None:
        """Why it ended; None while it runs."""
        return self.outputs[-1].finish if self.outputs else None

    @property
    def cached(self) -> int:
        """Prompt tokens that came from the cache."""
        return sum(output.cached_tokens for output in self.outputs)


class Loop:
    """A scheduler and a device, stepped by hand."""

    def __init__(
        self,
        *groups: KvGroup,
        num_pages: int = 1000,
        max_num_seqs: int = 8,
        budget: int = 64,
        max_model_len: int = 200,
        prefix_cache: bool = True,
        mixed: int | None = None,
    ) -> None:
        self.scheduler = Scheduler(groups, num_pages, max_num_seqs, budget, max_model_len, prefix_cache, mixed)
        self.device = Device(groups, num_pages, max_num_seqs, budget)
        self.max_model_len = max_model_len
        self.told: dict[str, Told] = {}

    def add(self, id: str, prompt: list[int], **sampling: Any) -> None:
        """Queue a request that can run."""
        assert self.scheduler.add(Generate(id, prompt, Sampling(**sampling))) is None
        self.told[id] = Told()

    def step(self) -> StepPlan:
        """One step; there must be something to do."""
        plan = self.scheduler.schedule()
        assert plan is not None
        self.finish(plan)
        return plan

    def finish(self, plan: StepPlan) -> None:
        """Execute a plan and read what comes of it."""
        self.device.launch(plan)
        self.collect()

    def launch(self) -> StepPlan | None:
        """Plan a step, perhaps while one is in flight, and queue it."""
        plan = self.scheduler.schedule()
        self.scheduler.check()
        if plan is not None:
            self.device.launch(plan)
        return plan

    def collect(self) -> None:
        """Execute the oldest plan in flight and read what comes of it."""
        for output in self.scheduler.apply(self.device.collect()):
            self.told[output.id].outputs.append(output)
            self.told[output.id].tokens += output.tokens
        self.scheduler.check()

    def overlap(self) -> StepPlan | None:
        """One step as an overlapping loop makes it: the next plan is launched before the last result is read."""
        plan = self.launch()
        if self.device.queue and (plan is None or len(self.device.queue) > 1):
            self.collect()
        return plan

    def drain(self) -> None:
        """Step until nothing waits or runs."""
        while not self.scheduler.idle:
            self.step()

    def overlap_all(self) -> None:
        """Overlapping steps until nothing waits, runs, or is in flight."""
        while not self.scheduler.idle or self.device.queue:
            self.overlap()

    def ask(self, id: str, prompt: list[int], **sampling: Any) -> Told:
        """Run one request to its end, check its tokens, and return what it was told."""
        self.add(id, prompt, **sampling)
        self.drain()
        assert self.told[id].tokens == continuation(prompt, Sampling(**sampling), self.max_model_len).tokens
        return self.told[id]
