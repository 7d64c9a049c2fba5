"""Keeps one engine alive and gives it the open jobs.

Owns the engine's process and socket, the table of open jobs, restarts with back-off, and the truth about health. Does not know
text, HTTP or dialects. Death is loud: when an engine is lost, jobs whose client has already seen something fail at once; the
others are sent again to the next engine, at most `MAX_REPLAYS` times. An engine that has served is replaced for ever; one that
cannot even start is tried `MAX_STARTS` times.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from tokenwell.drivers.native import NativeEngine
from tokenwell.service.job import Job, RequestFailed
from tokenwell.service.process import EngineProcess
from tokenwell.service.window import fit
from tokenwell.wire.errors import RequestError, TokenwellError
from tokenwell.wire.messages import Ready, Stats
from tokenwell.wire.spec import EngineSpec, encode_spec

MAX_REPLAYS = 2
MAX_STARTS = 3  # engines that are tried before one has ever served
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
HEALTHY_AFTER_S = 60.0  # an engine that served this long was not part of a crash loop
FIRST_HEARTBEAT_S = 120.0  # interpreter start and imports, before the heartbeat thread can exist
SHUTDOWN_S = 3.0  # how long an engine that was asked to leave may take
LAST_WORDS_S = 0.1  # how long what an engine said before its end may be on its way

_log = logging.getLogger("tokenwell.supervisor")


@dataclass(frozen=True)
class Health:
    """The state of the engine at this moment. `healthy` means: a request would be computed now."""

    healthy: bool
    state: str  # "ok" | "loading" | "restarting" | "stalled" | "failed" | "stopped"
    reason: str | None
    heartbeat_age_s: float | None
    restarts: int


@dataclass(frozen=True)
class _Loss:
    """Why an engine is gone, and whether another one may do better."""

    reason: str
    retry: bool = True


class Supervisor:
    """Starts `command --spec JSON`, watches it, replaces it. `spec` lacks the endpoints, which every engine gets anew."""

    def __init__(
        self,
        command: Sequence[str],
        spec: EngineSpec,
        *,
        heartbeat_timeout_s: float,
        step_timeout_s: float,
        on_first_ready: Callable[[Ready], None],
    ) -> None:
        self.ready: Ready | None = None  # of the last engine that was ready
        self.restarts = 0
        self._command = tuple(command)
        self._spec = spec
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._step_timeout_s = step_timeout_s
        self._on_first_ready = on_first_ready
        self._engine: NativeEngine | None = None
        self._serving: Ready | None = None  # of the present engine, once it has been given the open jobs
        self._healthy_since: float | None = None
        self._jobs: dict[Job, None] = {}  # open jobs, oldest first
        self._changed = asyncio.Event()
        self._failure: str | None = None
        self._last_loss: str | None = None
        self._past = Stats()  # totals of engines that are gone
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    # ------------------------------------------------------------------ for the rest of the service

    def start(self) -> None:
        """Start the first engine in the background."""
        self._task = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Fail what is open, let the engine leave, kill what is left."""
        self._stopping = True
        self._fail_all(RequestFailed(RequestError("cancelled", "The service is stopping.")))
        self._changed.set()
        if self._task is not None:
            await self._task

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
        if self._failure is not None:
            raise RequestFailed(_failed(self._failure))
        if self._stopping:
            raise RequestFailed(RequestError("cancelled", "The service is stopping."))
        self._jobs[job] = None
        if self._engine is not None and self._serving is not None:
            self._dispatch(job, self._engine, self._serving)

    def abort(self, job: Job, index: int) -> None:
        """Stop one sequence of a job."""
        if self._engine is not None:
            self._engine.abort(job.requests[index].id)

    def release(self, job: Job) -> None:
        """Forget a job; what still runs of it is aborted. Safe to call twice."""
        if self._jobs.pop(job, self) is self:
            return
        for index in range(len(job.requests)):
            self.abort(job, index)

    def health(self) -> Health:
        """What a probe should be told now."""
        engine = self._engine
        age = engine.silence_s() if engine is not None else None
        state, reason = self._state(engine)
        return Health(state == "ok", state, reason, None if age is None else round(age, 3), self.restarts)

    def stats(self) -> Stats:
        """Gauges of the present engine, totals over all engines since the gateway started."""
        now = self._engine.stats if self._engine is not None else Stats()
        return _added(self._past, now)

    # ------------------------------------------------------------------ the life of engines

    def _state(self, engine: NativeEngine | None) -> tuple[str, str | None]:
        if self._failure is not None:
            return "failed", self._failure
        if self._stopping:
            return "stopped", "the service is stopping"
        if engine is None:
            return ("restarting", self._last_loss) if self._last_loss else ("loading", None)
        loss = self._sickness(engine)
        if loss is not None:
            return "stalled", loss.reason
        if self._serving is None:
            return ("restarting", self._last_loss) if self._last_loss else ("loading", None)
        return "ok", None

    def _sickness(self, engine: NativeEngine) -> _Loss | None:
        """What is wrong with an engine whose process exists, if anything."""
        if engine.fatal is not None:
            return _Loss(engine.fatal.message, engine.fatal.retry)
        silence = engine.silence_s()
        if silence is not None and silence > self._heartbeat_timeout_s:
            return _Loss(f"the engine has been silent for {silence:.1f} s (heartbeat_timeout_s is {self._heartbeat_timeout_s:g})")
        if engine.ready is not None and engine.step_age_s > self._step_timeout_s:
            return _Loss(
                f"the engine has been in one step for {engine.step_age_s:.1f} s (step_timeout_s is {self._step_timeout_s:g})"
            )
        return None

    async def _keep_alive(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        starts = 0
        while not self._stopping:
            self._healthy_since = None
            loss = await self._one_life()
            if self._stopping:
                return
            starts += 1
            if self.ready is None and starts == MAX_STARTS:  # what never worked will not come right by itself
                loss = _Loss(f"{starts} engines ended before one could serve; the last time: {loss.reason}", retry=False)
            if not loss.retry:
                _log.error("the engine cannot serve: %s", loss.reason)
                self._failure = loss.reason
                self._fail_all(RequestFailed(_failed(loss.reason)))
                return
            if self._healthy_since is not None and time.monotonic() - self._healthy_since > HEALTHY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            _log.error("engine lost: %s; starting another in %.1f s", loss.reason, backoff_s)
            self._changed.clear()
            await self._pause(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            self.restarts += 1

    async def _pause(self, seconds: float) -> bool:
        """Wait for `_changed`, at most `seconds`. True if it was set."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _one_life(self) -> _Loss:
        """Start an engine and stay with it until it is lost. Its jobs are failed or kept for the next when this returns."""
        self._changed.clear()
        try:
            engine = NativeEngine(self._changed.set)
        except TokenwellError as error:
            return _Loss(str(error), retry=False)
        process: EngineProcess | None = None
        loss = _Loss("the engine was stopped")
        try:
            spec = msgspec.structs.replace(self._spec, commands=engine.commands, events=engine.events)
            process = await EngineProcess.start([*self._command, "--spec", encode_spec(spec)])
            _log.info("engine started as process %d", process.pid)
            self._engine = engine
            loss = await self._watch(engine, process)
        except TokenwellError as error:
            loss = _Loss(str(error), retry=False)
        finally:
            self._engine = self._serving = None
            self._last_loss = loss.reason
            self._past = _added(self._past, engine.stats, gauges=False)
            engine.close()
            if not self._stopping:
                self._settle(loss)  # before the process is reaped: clients are told at once
            if process is not None:
                await process.end()
        return loss

    async def _watch(self, engine: NativeEngine, process: EngineProcess) -> _Loss:
        ended = asyncio.create_task(process.wait())
        ended.add_done_callback(lambda _: self._changed.set())
        tick_s = min(0.25, self._heartbeat_timeout_s / 4)
        started = looked = time.monotonic()
        try:
            while True:
                await self._pause(tick_s)
                self._changed.clear()
                if self._stopping:
                    if self._serving is not None and engine.shutdown():
                        await asyncio.wait({ended}, timeout=SHUTDOWN_S)
                    return _Loss("the service is stopping")
                if engine.fatal is not None:  # says more than the exit status that follows it
                    return _Loss(engine.fatal.message, engine.fatal.retry)
                if ended.done():
                    await self._pause(LAST_WORDS_S)
                    fatal = engine.fatal
                    return _Loss(ended.result()) if fatal is None else _Loss(fatal.message, fatal.retry)
                if engine.ready is not None and self._serving is None:
                    self._greet(engine, engine.ready)
                now = time.monotonic()
                late = now - looked > self._heartbeat_timeout_s / 2  # we slept ourselves: read what waits before judging
                looked = now
                if late:
                    continue
                loss = self._sickness(engine)
                if loss is not None:
                    return loss
                if engine.heard_at is None and now - started > FIRST_HEARTBEAT_S:
                    return _Loss(f"the engine sent nothing for {FIRST_HEARTBEAT_S:.0f} s after its start")
        finally:
            ended.cancel()

    def _greet(self, engine: NativeEngine, ready: Ready) -> None:
        first = self.ready is None
        self.ready = self._serving = ready
        self._healthy_since = time.monotonic()
        self._last_loss = None
        if first:
            self._on_first_ready(ready)
        else:
            _log.info("an engine is ready again, with a window of %d tokens", ready.max_model_len)
        for job in list(self._jobs):
            self._dispatch(job, engine, ready)

    def _dispatch(self, job: Job, engine: NativeEngine, ready: Ready) -> None:
        """Give a job to an engine, fitted to what that engine enforces."""
        for index, request in enumerate(job.requests):
            fitted = fit(request, ready.max_model_len, job.noun)
            if isinstance(fitted, RequestError):
                self.release(job)
                job.fail(RequestFailed(fitted))
                return
            # Not taken: the engine is just dying. The watch will see it and settle this job.
            engine.generate(fitted, job.sink(index))

    def _settle(self, loss: _Loss) -> None:
        """Decide for every open job whether it fails or waits for the next engine."""
        for job in list(self._jobs):
            if job.complete:  # nothing of it was lost
                continue
            job.losses += 1
            if loss.retry and not job.started and job.losses <= MAX_REPLAYS:
                job.restart()
                continue
            again = "" if job.started else f" {job.losses} times in a row"
            del self._jobs[job]
            job.fail(RequestFailed(RequestError("engine_failed", f"The engine failed{again}: {loss.reason}"), retry_after_s=5))

    def _fail_all(self, failure: RequestFailed) -> None:
        for job in list(self._jobs):
            self.release(job)
            job.fail(failure)


def _failed(reason: str) -> RequestError:
    return RequestError("engine_failed", f"The engine cannot serve and will not be started again: {reason}")


def _added(past: Stats, now: Stats, *, gauges: bool = True) -> Stats:
    """`now` with the running totals of `past` added; without gauges, totals only."""
    return Stats(
        steps=past.steps + now.steps,
        running=now.running if gauges else 0,
        waiting=now.waiting if gauges else 0,
        pages_total=now.pages_total if gauges else 0,
        pages_active=now.pages_active if gauges else 0,
        pages_cached=now.pages_cached if gauges else 0,
        preemptions=past.preemptions + now.preemptions,
        prompt_tokens=past.prompt_tokens + now.prompt_tokens,
        cached_tokens=past.cached_tokens + now.cached_tokens,
        generated_tokens=past.generated_tokens + now.generated_tokens,
        step_seconds=past.step_seconds + now.step_seconds,
        model_seconds=past.model_seconds + now.model_seconds,
    )
