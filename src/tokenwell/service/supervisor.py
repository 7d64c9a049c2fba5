"""Gives the open jobs to the engines: one, or several replicas behind one address.

Owns the table of open jobs and what becomes of them when an engine is lost; `keeper` keeps each engine alive, `router` says
which one takes a prompt. Does not know text, HTTP or dialects. Death is loud: when an engine is lost, jobs whose client has
already seen something fail at once; the others are sent again to another engine or to the next, at most `MAX_REPLAYS` times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from tokenwell.service.job import Job, RequestFailed
from tokenwell.service.keeper import Health, Keeper, Limits, Loss, added
from tokenwell.service.router import Router
from tokenwell.service.window import fit
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Choice, Ready, Stats
from tokenwell.wire.spec import EngineSpec

__all__ = ["Health", "Replica", "Supervisor"]

MAX_REPLAYS = 2
ANSWER_TOKENS = 256  # what a sequence counts for beside its prompt when loads are compared: nobody knows how long it will be

_BEST_FIRST = ("ok", "loading", "restarting", "stalled", "stopped", "failed")
_log = logging.getLogger("tokenwell.supervisor")


@dataclass(frozen=True)
class Replica:
    """One of the engines behind the address, at this moment."""

    name: str
    device: str | None  # None before it was ready once
    health: Health
    stats: Stats
    load_tokens: int  # of the prompts and answers that it was given and has not finished
    open_sequences: int


class Supervisor:
    """Engines that are started by `command --spec JSON`, each on cards of its own, and the jobs that they share."""

    def __init__(
        self,
        command: Sequence[str],
        spec: EngineSpec,
        *,
        heartbeat_timeout_s: float,
        step_timeout_s: float,
        on_first_ready: Callable[[Ready], None],
        replicas: int = 1,
    ) -> None:
        self._command = tuple(command)
        self._limits = Limits(heartbeat_timeout_s, step_timeout_s)
        self._on_first_ready = on_first_ready
        self._router = Router()
        self._keepers: dict[int, Keeper] = {}  # by the number that the router knows
        self._made = 0
        self._jobs: dict[Job, Keeper | None] = {}  # open jobs, oldest first, and who has them; None: they wait for an engine
        self._greeted = False
        self._fallback: Choice | None = None
        self._past = Stats()  # of engines that others have taken the place of
        self._past_restarts = 0
        self._stopping = False
        for place in range(replicas):
            self._add(msgspec.structs.replace(spec, first_card=place * spec.tp, sharers=replicas * spec.tp))

    # ------------------------------------------------------------------ for the rest of the service

    def start(self) -> None:
        """Start the engines in the background."""
        for keeper in self._keepers.values():
            keeper.start()

    async def stop(self) -> None:
        """Fail what is open, let the engines leave, kill what is left."""
        self._stopping = True
        self._fail_all(RequestFailed(RequestError("cancelled", "The service is stopping.")))
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))

    @property
    def ready(self) -> Ready | None:
        """What the engines that have been ready can do together: the smallest window of them, the slots of all."""
        known = [keeper.ready for keeper in self._keepers.values() if keeper.ready is not None]
        if len(known) < 2:
            return known[0] if known else None
        window, slots = min(ready.max_model_len for ready in known), sum(ready.max_num_seqs for ready in known)
        return msgspec.structs.replace(known[0], max_model_len=window, max_num_seqs=slots)

    @property
    def restarts(self) -> int:
        """Engines that were started in place of a lost one."""
        return self._past_restarts + sum(keeper.restarts for keeper in self._keepers.values())

    @property
    def open_sequences(self) -> int:
        """Sequences that wait or run."""
        return sum(len(job.requests) for job in self._jobs)

    @property
    def open_jobs(self) -> int:
        """Client requests that wait or run."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Take a job; it waits while no engine is ready. Raises RequestFailed when none ever will be."""
        if (failure := self._failure()) is not None:
            raise RequestFailed(_failed(failure))
        if self._stopping:
            raise RequestFailed(RequestError("cancelled", "The service is stopping."))
        self._jobs[job] = None
        self._place(job)

    def abort(self, job: Job, index: int) -> None:
        """Stop one sequence of a job."""
        self._abort(job, index, self._jobs.get(job))

    def release(self, job: Job) -> None:
        """Forget a job; what still runs of it is aborted. Safe to call twice."""
        keeper = self._jobs.pop(job, None)
        for index in range(len(job.requests)):
            self._abort(job, index, keeper)

    def health(self) -> Health:
        """What a probe should be told now: the state of the healthiest engine, and what is wrong with others."""
        found = [keeper.health() for keeper in self._keepers.values()]
        best = min(found, key=lambda health: _BEST_FIRST.index(health.state))
        reason = best.reason
        if best.healthy and not all(health.healthy for health in found):
            told = [f"{name}: {health.state}" + f", {health.reason}" * bool(health.reason) for name, health in self._sick()]
            reason = f"{sum(health.healthy for health in found)} of {len(found)} replicas serve; {'; '.join(told)}"
        return Health(best.healthy, best.state, reason, best.heartbeat_age_s, self.restarts)

    def stats(self) -> Stats:
        """Gauges of the present engines, totals over all engines since the gateway started."""
        total = self._past
        for keeper in self._keepers.values():
            total = added(total, keeper.stats())
        return total

    def replicas(self) -> list[Replica]:
        """The engines one by one."""
        return [
            Replica(
                keeper.name,
                None if keeper.ready is None else keeper.ready.device,
                keeper.health(),
                keeper.stats(),
                self._load(keeper),
                sum(len(job.requests) for job, owner in self._jobs.items() if owner is keeper),
            )
            for keeper in self._keepers.values()
        ]

    # ------------------------------------------------------------------ what keepers tell

    def serving(self, keeper: Keeper, ready: Ready) -> None:
        """An engine takes requests from now on: it gets what waits."""
        if not self._greeted:
            self._greeted = True
            self._on_first_ready(self._told(ready))
        for job in [job for job, owner in self._jobs.items() if owner is None]:
            self._place(job)

    def lost(self, keeper: Keeper, loss: Loss) -> None:
        """Decide for every job of a lost engine whether it fails or goes to another one."""
        self._router.forget(self._number(keeper))
        for job in [job for job, owner in self._jobs.items() if owner is keeper and not job.complete]:
            job.losses += 1
            if (loss.retry or loss.apart) and not job.started and job.losses <= MAX_REPLAYS:
                self._jobs[job] = None
                job.restart()
                self._place(job)
                continue
            again = "" if job.started else f" {job.losses} times in a row"
            del self._jobs[job]
            job.fail(RequestFailed(RequestError("engine_failed", f"The engine failed{again}: {loss.reason}"), retry_after_s=5))

    def failed(self, keeper: Keeper, loss: Loss) -> None:
        """No engine will ever serve on these cards as they were put together."""
        if loss.apart and keeper.spec.tp > 1:
            self._split(keeper, loss)
        elif (failure := self._failure()) is not None:
            self._fail_all(RequestFailed(_failed(failure)))

    # ------------------------------------------------------------------ engines

    def _add(self, spec: EngineSpec) -> Keeper:
        number, self._made = self._made, self._made + 1
        keeper = self._keepers[number] = Keeper(str(number), self._command, spec, self._limits, self)
        return keeper

    def _split(self, keeper: Keeper, loss: Loss) -> None:
        """The cards of an engine cannot work together: each gets one of its own."""
        del self._keepers[self._number(keeper)]
        self._past = added(self._past, keeper.stats(), gauges=False)
        self._past_restarts += keeper.restarts
        count = keeper.spec.tp
        self._fallback = Choice("tensor parallel", f"off, {count} replicas instead", loss.reason)
        _log.warning("tensor parallel is off, %d replicas are started instead: %s", count, loss.reason)
        for place in range(count):
            one = msgspec.structs.replace(keeper.spec, tp=1, first_card=keeper.spec.first_card + place)
            self._add(one).start()

    def _number(self, keeper: Keeper) -> int:
        return next(number for number, one in self._keepers.items() if one is keeper)

    def _told(self, ready: Ready) -> Ready:
        """The first engine's words, and how many such engines there are."""
        choices = [*ready.choices] if self._fallback is None else [self._fallback, *ready.choices]
        if len(self._keepers) > 1:
            why = "each has the limits that are told here; a prompt goes where most of it is cached"
            choices.append(Choice("replicas", str(len(self._keepers)), why))
        return msgspec.structs.replace(ready, choices=choices)

    def _failure(self) -> str | None:
        """Why no engine will ever serve, if that is so."""
        reasons = [keeper.failure for keeper in self._keepers.values()]
        return reasons[-1] if all(reason is not None for reason in reasons) else None

    def _sick(self) -> list[tuple[str, Health]]:
        found = [(f"replica {keeper.name}", keeper.health()) for keeper in self._keepers.values()]
        return [(name, health) for name, health in found if not health.healthy]

    # ------------------------------------------------------------------ jobs

    def _load(self, keeper: Keeper) -> int:
        """Tokens of the prompts and answers that an engine has not finished, as far as they can be known."""
        mine = [job for job, owner in self._jobs.items() if owner is keeper and not job.complete]
        return sum(len(request.prompt) + ANSWER_TOKENS for job in mine for request in job.requests)

    def _place(self, job: Job) -> None:
        """Give a job to an engine that serves, if there is one."""
        able = {number: keeper for number, keeper in self._keepers.items() if keeper.serving is not None}
        able = {number: keeper for number, keeper in able.items() if keeper.health().healthy} or able
        if able and len(self._keepers) > 1:
            loads = {number: self._load(keeper) for number, keeper in able.items()}
            chosen = self._router.choose(job.requests[0].prompt, loads)
            able = {chosen: able[chosen]}
        for keeper in able.values():
            self._dispatch(job, keeper)

    def _dispatch(self, job: Job, keeper: Keeper) -> None:
        """Give a job to an engine, fitted to what that engine enforces."""
        engine, ready = keeper.engine, keeper.serving
        assert engine is not None and ready is not None
        self._jobs[job] = keeper
        for index, request in enumerate(job.requests):
            fitted = fit(request, ready.max_model_len, job.noun)
            if isinstance(fitted, RequestError):
                self.release(job)
                job.fail(RequestFailed(fitted))
                return
            engine.generate(fitted, job.sink(index))

    def _abort(self, job: Job, index: int, keeper: Keeper | None) -> None:
        if keeper is not None and keeper.engine is not None:
            keeper.engine.abort(job.requests[index].id)

    def _fail_all(self, failure: RequestFailed) -> None:
        for job in list(self._jobs):
            self.release(job)
            job.fail(failure)


def _failed(reason: str) -> RequestError:
    return RequestError("engine_failed", f"The engine cannot serve and will not be started again: {reason}")
