"""The engine's main loop: messages in, one step, messages out. Owns the scheduler and the worker; knows no HTTP.

On an accelerator steps overlap: the next one is planned and launched while the device computes the one before, whose tokens
are read, booked and sent then. Where a launch computes at once, each step is booked before the next one is planned.

    host    plan 2, launch 2 | wait for 1 | book and send 1, draw 2, plan 3, launch 3 | wait for 2 | book and send 2 ...
    device  step 1 ......................| step 2 ..................................................| step 3 ............

Any exception in a step ends the process: the gateway ends the streams, starts a new engine and replays what had sent
nothing yet. A request that cannot be served is answered, never dropped.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from tokenwell.engine.run.grammar import GrammarError
from tokenwell.engine.run.worker import Step, Worker
from tokenwell.engine.schedule.pace import Pace
from tokenwell.engine.schedule.plan import StepPlan
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
        self._pending: Step | None = None  # launched and drawn, not collected
        self._pace = Pace()
        self._most_beside = scheduler.most_beside
        self._launched_at = self._booked_at = 0.0  # of the last steps, on time.perf_counter's clock
        self._step_seconds = 0.0
        self._model_seconds = 0.0

    def run(self) -> None:
        """Serve until a Shutdown message."""
        # What loading made stays to the end. A garbage collection that looked through it would stall a step by 80 ms.
        gc.freeze()
        idle, checked = True, True
        while True:
            began = time.perf_counter()
            messages = list(self._channel.receive(self._patience_ms() if idle else 0))
            if idle:
                began = time.perf_counter()  # waiting is not work
            if any(isinstance(message, Shutdown) for message in messages):
                return
            outputs = self._take(messages) + self._add_compiled()
            self._scheduler.most_beside = self._pace.tokens(self._most_beside)
            plan = self._scheduler.schedule()
            if plan is None and self._pending is None:
                if messages or outputs:
                    self._send(outputs)
                elif idle and not checked:  # nothing to do for a while: time to look for lost pages
                    self._scheduler.check()
                    checked = True
                elif idle:
                    self._worker.prepare()
                idle = True
                continue
            idle = checked = False
            self._advance(plan, outputs)
            self._step_seconds += time.perf_counter() - began

    def _advance(self, plan: StepPlan | None, outputs: list[Output]) -> None:
        """Launch `plan`, if there is one, and book the step before it, or `plan` itself without overlap; send `outputs`, too."""
        launched, self._launched_at = self._launched_at, time.perf_counter()
        step = self._launch(plan) if plan is not None else None
        earlier, self._pending = self._pending, step
        if earlier is not None:
            outputs += self._book(earlier, launched)
        if self._worker.overlaps:
            self._send(outputs)
        if step is None:
            return
        ran = time.perf_counter()
        self._worker.draw(step)  # only now are all earlier tokens known, which grammars and penalties look at
        self._model_seconds += time.perf_counter() - ran
        if not self._worker.overlaps:
            self._pending = None
            self._send(outputs + self._book(step, self._launched_at))

    def _launch(self, plan: StepPlan) -> Step:
        if self._pending is None:
            self._pulse.step_started = time.monotonic()
        ran = time.perf_counter()
        step: Step = self._worker.launch(plan)
        self._model_seconds += time.perf_counter() - ran
        return step

    def _book(self, step: Step, launched: float) -> list[Output]:
        """Wait for the tokens of a step that was launched at a time, and tell the scheduler."""
        ran = time.perf_counter()
        result = self._worker.collect(step)
        done = time.perf_counter()
        self._model_seconds += done - ran
        # With overlap a step begins when the one before it is done.
        self._pace.note(sum(run.count for run in step.plan.run if run.count > 1), done - max(launched, self._booked_at))
        self._booked_at = done
        self._pulse.step_started = None if self._pending is None else time.monotonic()
        return self._scheduler.apply(result)

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
