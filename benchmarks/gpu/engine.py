"""An engine in this process: scheduler and worker turn as the service's loop turns them, and every step's time is noted."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenwell.engine.load import Loaded, load, scheduler_for, warm_up
from tokenwell.engine.schedule.plan import StepPlan
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.messages import Generate, Output
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec


@dataclass(frozen=True)
class Came:
    """One step whose outputs are there. Only numbers: what garbage collection looks through would be a benchmark's alone."""

    at: float
    rows: int
    decodes: bool  # each row one token, and nothing else
    tokens: int  # generated


@dataclass
class Run:
    """What a set of requests took."""

    started: float
    steps: list[Came] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)  # by request, when its first token was there

    def note(self, plan: StepPlan, outputs: Sequence[Output]) -> None:
        """A step's outputs are there."""
        at = time.perf_counter()
        generated = sum(len(output.tokens) for output in outputs)
        self.steps.append(Came(at, len(plan.run), all(run.count == 1 for run in plan.run), generated))
        for output in outputs:
            if output.tokens:
                self.first.setdefault(output.id, at)

    @property
    def seconds(self) -> float:
        """From the first request to the last token."""
        return self.steps[-1].at - self.started

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return sum(step.tokens for step in self.steps)

    def decode_ms(self, rows: int) -> float:
        """Mean time of the steps in which all `rows` rows decode and nothing else happens."""
        quiet = [step for step in self.steps if step.rows == rows and step.decodes]
        # The first of them follows a step of another kind, and with overlap its time is partly that step's.
        quiet = quiet[2:]
        if len(quiet) < 2:
            raise ValueError(f"there are no steps in which {rows} rows decode: ask for more tokens")
        return 1000 * (quiet[-1].at - quiet[0].at) / (len(quiet) - 1)

    def first_token_s(self) -> float:
        """Until every request had its first token."""
        return max(self.first.values()) - self.started


class Engine:
    """A loaded model with a scheduler."""

    def __init__(self, spec: EngineSpec) -> None:
        started = time.perf_counter()
        self.loaded: Loaded = load(spec)
        self.load_seconds = time.perf_counter() - started
        self.worker, self.ready = self.loaded.worker, self.loaded.ready
        warm_up(self.loaded)
        self.start_seconds = time.perf_counter() - started
        self._prefix_cache = spec.prefix_cache

    def prompts(self, count: int, length: int, seed: int) -> list[list[int]]:
        """Random token ids."""
        chance = random.Random(seed)
        return [[chance.randrange(self.ready.vocab_size) for _ in range(length)] for _ in range(count)]

    def greedy(self, prompts: Sequence[list[int]], tokens: int) -> Run:
        """Continue all prompts at once by `tokens` tokens; equal ones are in the prefix cache, so that they stay in step."""
        asked = [
            Generate(str(index), prompt, Sampling(temperature=0.0, max_tokens=tokens)) for index, prompt in enumerate(prompts)
        ]
        if len(prompts) < 2 or any(prompt != prompts[0] for prompt in prompts):
            return self.run(asked)
        return self.run(asked, Generate("first", prompts[0], Sampling(temperature=0.0, max_tokens=1)))

    def run(self, requests: Sequence[Generate], before: Generate | None = None) -> Run:
        """Serve the requests, all of them there from the beginning, once `before` is done, which is not counted."""
        scheduler = scheduler_for(self.ready, self._prefix_cache)
        self.worker.forget_rows()
        # As the service does. Afterwards everything may be collected, also this engine, because another may come.
        gc.freeze()
        try:
            if before is not None:
                self._serve(scheduler, [before])
            run = self._serve(scheduler, requests)
        finally:
            gc.unfreeze()
        scheduler.check()
        return run

    def _serve(self, scheduler: Scheduler, requests: Sequence[Generate]) -> Run:
        run = Run(time.perf_counter())
        for request in requests:
            refused = scheduler.add(request)
            assert refused is None, refused
        worker, pending = self.worker, None
        while True:
            plan = scheduler.schedule()
            if plan is None and pending is None:
                break
            step = worker.launch(plan) if plan is not None else None
            if pending is not None:
                run.note(pending.plan, scheduler.apply(worker.collect(pending)))
                pending = None
            if step is None:
                continue
            worker.draw(step)
            if worker.overlaps:
                pending = step
                continue
            run.note(step.plan, scheduler.apply(worker.collect(step)))
        return run
