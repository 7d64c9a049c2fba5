"""Keeps one engine alive: its process and socket, restarts with back-off, and the truth about its health.

Knows no jobs: who owns it hears when the engine serves and when it is lost. An engine that has served is replaced for ever; one
that cannot even start is tried `MAX_STARTS` times.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from tokenwell.drivers.native import NativeEngine
from tokenwell.service.process import EngineProcess
from tokenwell.wire.errors import TokenwellError
from tokenwell.wire.messages import Ready, Stats
from tokenwell.wire.spec import EngineSpec, encode_spec

MAX_STARTS = 3  # engines that are tried before one has ever served
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
HEALTHY_AFTER_S = 60.0  # an engine that served this long was not part of a crash loop
FIRST_HEARTBEAT_S = 120.0  # interpreter start and imports, before the heartbeat thread can exist
SHUTDOWN_S = 3.0  # how long an engine that was asked to leave may take
LAST_WORDS_S = 0.5  # how long what an engine said before its end may be on its way

_log = logging.getLogger("tokenwell.supervisor")


@dataclass(frozen=True)
class Limits:
    """How long an engine may be silent, and how long one step may take."""

    heartbeat_timeout_s: float
    step_timeout_s: float


@dataclass(frozen=True)
class Loss:
    """Why an engine is gone, and whether another one may do better."""

    reason: str
    retry: bool = True
    apart: bool = False  # its cards cannot work together


@dataclass(frozen=True)
class Health:
    """The state of an engine at this moment. `healthy` means: a request would be computed now."""

    healthy: bool
    state: str  # "ok" | "loading" | "restarting" | "stalled" | "failed" | "stopped"
    reason: str | None
    heartbeat_age_s: float | None
    restarts: int


class Owner(Protocol):
    """Who hears of an engine's fortunes. Nothing here may raise."""

    def serving(self, keeper: Keeper, ready: Ready) -> None:
        """An engine takes requests from now on."""

    def lost(self, keeper: Keeper, loss: Loss) -> None:
        """The engine is gone, and what it was computing with it."""

    def failed(self, keeper: Keeper, loss: Loss) -> None:
        """No engine will ever serve here."""


class Keeper:
    """Starts `command --spec JSON`, watches it, replaces it. `spec` lacks the endpoints, which every engine gets anew."""

    def __init__(self, name: str, command: Sequence[str], spec: EngineSpec, limits: Limits, owner: Owner) -> None:
        self.name = name
        self.spec = spec
        self.ready: Ready | None = None  # of the last engine that was ready
        self.serving: Ready | None = None  # of the present engine, once its owner knows it
        self.failure: str | None = None
        self.restarts = 0
        self._command = tuple(command)
        self._limits = limits
        self._owner = owner
        self._engine: NativeEngine | None = None
        self._healthy_since: float | None = None
        self._changed = asyncio.Event()
        self._last_loss: str | None = None
        self._past = Stats()  # totals of engines that are gone
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def engine(self) -> NativeEngine | None:
        """The present engine, serving or not."""
        return self._engine

    @property
    def _who(self) -> str:
        """In front of log lines, where there is more than one engine."""
        return f"replica {self.name}: " if self.spec.sharers > self.spec.tp else ""

    def start(self) -> None:
        """Start the first engine in the background."""
        self._task = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Let the engine leave, kill what is left."""
        self._stopping = True
        self._changed.set()
        if self._task is not None:
            await self._task

    def health(self) -> Health:
        """What a probe should be told now."""
        engine = self._engine
        age = engine.silence_s() if engine is not None else None
        state, reason = self._state(engine)
        return Health(state == "ok", state, reason, None if age is None else round(age, 3), self.restarts)

    def stats(self) -> Stats:
        """Gauges of the present engine, totals over all engines since the gateway started."""
        now = self._engine.stats if self._engine is not None else Stats()
        return added(self._past, now)

    def _state(self, engine: NativeEngine | None) -> tuple[str, str | None]:
        if self.failure is not None:
            return "failed", self.failure
        if self._stopping:
            return "stopped", "the service is stopping"
        if engine is None:
            return ("restarting", self._last_loss) if self._last_loss else ("loading", None)
        loss = self._sickness(engine)
        if loss is not None:
            return "stalled", loss.reason
        if self.serving is None:
            return ("restarting", self._last_loss) if self._last_loss else ("loading", None)
        return "ok", None

    def _sickness(self, engine: NativeEngine) -> Loss | None:
        """What is wrong with an engine whose process exists, if anything."""
        if engine.fatal is not None:
            return Loss(engine.fatal.message, engine.fatal.retry, engine.fatal.apart)
        silence, limits = engine.silence_s(), self._limits
        if silence is not None and silence > limits.heartbeat_timeout_s + engine.quiet_s:
            return Loss(f"the engine has been silent for {silence:.1f} s (heartbeat_timeout_s is {limits.heartbeat_timeout_s:g})")
        if engine.ready is not None and engine.step_age_s > limits.step_timeout_s:
            return Loss(
                f"the engine has been in one step for {engine.step_age_s:.1f} s (step_timeout_s is {limits.step_timeout_s:g})"
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
                loss = Loss(f"{starts} engines ended before one could serve; the last time: {loss.reason}", retry=False)
            if not loss.retry:
                _log.error("%sthe engine cannot serve: %s", self._who, loss.reason)
                self.failure = loss.reason
                self._owner.failed(self, loss)
                return
            if self._healthy_since is not None and time.monotonic() - self._healthy_since > HEALTHY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            _log.error("%sengine lost: %s; starting another in %.1f s", self._who, loss.reason, backoff_s)
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

    async def _one_life(self) -> Loss:
        """Start an engine and stay with it until it is lost. The owner knows by then."""
        self._changed.clear()
        try:
            engine = NativeEngine(self._changed.set)
        except TokenwellError as error:
            return Loss(str(error), retry=False)
        process: EngineProcess | None = None
        loss = Loss("the engine was stopped")
        try:
            spec = msgspec.structs.replace(self.spec, commands=engine.commands, events=engine.events)
            process = await EngineProcess.start([*self._command, "--spec", encode_spec(spec)])
            _log.info("%sengine started as process %d", self._who, process.pid)
            self._engine = engine
            loss = await self._watch(engine, process)
        except TokenwellError as error:
            loss = Loss(str(error), retry=False)
        finally:
            self._engine = self.serving = None
            self._last_loss = loss.reason
            self._past = added(self._past, engine.stats, gauges=False)
            engine.close()
            if not self._stopping:
                self._owner.lost(self, loss)  # before the process is reaped: clients are told at once
            if process is not None:
                await process.end()
        return loss

    async def _watch(self, engine: NativeEngine, process: EngineProcess) -> Loss:
        ended = asyncio.create_task(process.wait())
        ended.add_done_callback(lambda _: self._changed.set())
        tick_s = min(0.25, self._limits.heartbeat_timeout_s / 4)
        started = looked = time.monotonic()
        try:
            while True:
                await self._pause(tick_s)
                self._changed.clear()
                if self._stopping:
                    if self.serving is not None and engine.shutdown():
                        await asyncio.wait({ended}, timeout=SHUTDOWN_S)
                    return Loss("the service is stopping")
                if engine.fatal is not None:  # says more than the exit status that follows it
                    return Loss(engine.fatal.message, engine.fatal.retry, engine.fatal.apart)
                if ended.done():
                    await self._pause(LAST_WORDS_S)
                    fatal = engine.fatal
                    return Loss(ended.result()) if fatal is None else Loss(fatal.message, fatal.retry, fatal.apart)
                if engine.ready is not None and self.serving is None:
                    self._greet(engine.ready)
                now = time.monotonic()
                late = now - looked > self._limits.heartbeat_timeout_s / 2  # we slept ourselves: read what waits before judging
                looked = now
                if late:
                    continue
                loss = self._sickness(engine)
                if loss is not None:
                    return loss
                if engine.heard_at is None and now - started > FIRST_HEARTBEAT_S:
                    return Loss(f"the engine sent nothing for {FIRST_HEARTBEAT_S:.0f} s after its start")
        finally:
            ended.cancel()

    def _greet(self, ready: Ready) -> None:
        again = self.ready is not None
        self.ready = self.serving = ready
        self._healthy_since = time.monotonic()
        self._last_loss = None
        if again or self._who:
            _log.info("%san engine is ready%s, with a window of %d tokens", self._who, " again" * again, ready.max_model_len)
        self._owner.serving(self, ready)


def added(past: Stats, now: Stats, *, gauges: bool = True) -> Stats:
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
