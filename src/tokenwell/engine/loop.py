"""The engine's main loop: messages in, one step, messages out. Owns the scheduler and the worker; knows no HTTP.

Any exception in a step ends the process: the gateway ends the streams, starts a new engine and replays what had sent
nothing yet. A request that cannot be served is answered, never dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from tokenwell.engine.run.grammar import GrammarError
from tokenwell.engine.run.worker import Worker
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Abort, Generate, Output, Outputs, Shutdown, ToEngine
from tokenwell.wire.pulse import Pulse

if TYPE_CHECKING:
    from llguidance import LLMatcher

_IDLE_MS = 1000  # how long an idle loop waits for a message before it looks around
_COMPILING_MS = 1  # the same while a grammar is being compiled


class Loop:
    """Runs until told to leave."""

    def __init__(self, channel: EngineChannel, scheduler: Scheduler, worker: Worker, vocabulary: int, pulse: Pulse) -> None:
        self._channel = channel
        self._scheduler = scheduler
        self._worker = worker
        self._vocabulary = vocabulary
        self._pulse = pulse
        self._compiling: dict[str, tuple[Generate, Future[LLMatcher]]] = {}  # by request id, oldest first
        self._step_seconds = 0.0
        self._model_seconds = 0.0

    def run(self) -> None:
        """Serve until a Shutdown message."""
        idle, checked = True, True
        while True:
            began = time.perf_counter()
            messages = list(self._channel.receive(self._patience_ms() if idle else 0))
            if idle:
                began = time.perf_counter()  # waiting is not work
            if any(isinstance(message, Shutdown) for message in messages):
                return
            outputs = self._take(messages) + self._add_compiled()
            plan = self._scheduler.schedule()
            if plan is None:
                if messages or outputs:
                    self._send(outputs)
                elif idle and not checked:  # nothing to do for a while: time to look for lost pages
                    self._scheduler.check()
                    checked = True
                idle = True
                continue
            idle = checked = False
            self._pulse.step_started = time.monotonic()
            ran = time.perf_counter()
            result = self._worker.run(plan)
            self._model_seconds += time.perf_counter() - ran
            self._pulse.step_started = None
            outputs += self._scheduler.apply(result)
            self._send(outputs)
            self._step_seconds += time.perf_counter() - began

    def _take(self, messages: Iterable[ToEngine]) -> list[Output]:
        refused = []
        for message in messages:
            if isinstance(message, Abort):
                if self._compiling.pop(message.id, None) is None:
                    self._scheduler.abort(message.id)
            elif isinstance(message, Generate):
                answer = self._bad_ids(message) or self._begin(message)
                if answer is not None:
                    refused.append(answer)
        return refused

    def _begin(self, message: Generate) -> Output | None:
        """Queue a request; one with a grammar when that is compiled, while the others go on."""
        if message.id in self._compiling:
            return _refused(message, f"a request with id {message.id!r} is in progress; use a new id")
        if message.sampling.grammar is None:
            return self._scheduler.add(message)
        self._compiling[message.id] = (message, self._worker.grammars.submit(message.sampling.grammar))
        return None

    def _add_compiled(self) -> list[Output]:
        """Queue the requests whose grammars are ready; the answers to those that cannot be served."""
        refused = []
        for message, future in [item for item in self._compiling.values() if item[1].done()]:
            del self._compiling[message.id]
            error = future.exception()
            answer = self._scheduler.add(message) if error is None else _refused(message, _words(error))
            if answer is not None:
                refused.append(answer)
        return refused

    def _patience_ms(self) -> int:
        return _COMPILING_MS if self._compiling else _IDLE_MS

    def _bad_ids(self, message: Generate) -> Output | None:
        ids = [*message.prompt, *message.sampling.logit_bias, *message.sampling.stop_ids]
        if not ids or (min(ids) >= 0 and max(ids) < self._vocabulary):
            return None
        wrong = next(token for token in ids if not 0 <= token < self._vocabulary)
        return _refused(message, f"token id {wrong} is outside the vocabulary of {self._vocabulary} tokens")

    def _send(self, outputs: list[Output]) -> None:
        times = {"step_seconds": self._step_seconds, "model_seconds": self._model_seconds}
        self._channel.send(Outputs(outputs, msgspec.structs.replace(self._scheduler.stats(), **times)))


def _refused(message: Generate, why: str) -> Output:
    return Output(message.id, finish="error", error=RequestError("invalid_request", why))


def _words(error: BaseException) -> str:
    """A compilation's error for the client."""
    if isinstance(error, GrammarError):
        return str(error)
    return f"The grammar cannot be used: compiling it failed with {type(error).__name__}: {error}"
