"""The scripted engine's main loop: requests in, tokens out at the wanted pace, faults where they were asked for.

Speaks the wire protocol as the native engine does. Knows no chat format; an `Author` gives it whole answers.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tokenwell.drivers.scripted.answer import Author
from tokenwell.drivers.scripted.forced import GrammarRefused
from tokenwell.drivers.scripted.prefixes import Prefixes
from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Abort, Generate, Output, Outputs, Ready, Shutdown, Stats, TokenLogprob
from tokenwell.wire.pulse import Pulse

_IDLE_MS = 1000
_DIED = 3  # exit status of a death that was asked for

_log = logging.getLogger("tokenwell.scripted")


@dataclass
class Behaviour:
    """How the engine behaves. A fault happens in every answer that is long enough, counted in its own tokens."""

    tpot_ms: float = 0.0  # between two tokens of an answer; 0: as fast as possible
    ttft_ms: float = 0.0  # from a request's arrival to its first token
    die_after: int | None = None
    stall_after: int | None = None
    garbage_after: int | None = None
    once: Path | None = None  # a file that is made when a fault happens; while it is there, none happens

    def strike(self) -> bool:
        """Whether a fault may happen now; notes that it does."""
        if self.once is None:
            return True
        try:
            self.once.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Sequence:
    """One request that is being answered."""

    def __init__(self, request: Generate, answer: list[int], cached_tokens: int, due_s: float) -> None:
        self.request = request
        self.due_s = due_s  # time.monotonic() of the next token
        self.sent = 0
        self._answer = answer
        self._cached_tokens = cached_tokens

    def step(self, filler: list[int]) -> Output:
        """The next token. A request that may not end yet, or that has no stop ids, gets filler behind its answer."""
        sampling = self.request.sampling
        first = self.sent == 0
        tokens: list[int] = []
        stop_id = None
        if sampling.max_tokens:
            token = self._answer[self.sent] if self.sent < len(self._answer) else filler[self.sent % len(filler)]
            at_end = self.sent == len(self._answer) - 1
            if token in sampling.stop_ids and self.sent + 1 >= sampling.min_tokens:
                stop_id = token
            elif at_end or token in sampling.stop_ids:
                token = filler[self.sent % len(filler)]
            tokens.append(token)
            self.sent += 1
        ended = "stop" if stop_id is not None else "length" if self.sent >= sampling.max_tokens else None
        wanted, prompt_wanted = sampling.logprobs, sampling.prompt_logprobs
        return Output(
            self.request.id,
            tokens,
            None if wanted is None else [_logprob(token, wanted) for token in tokens],
            [_logprob(token, prompt_wanted) for token in self.request.prompt[1:]]
            if first and prompt_wanted is not None
            else None,
            self._cached_tokens if first else 0,
            ended,
            stop_id,
        )


def _logprob(token: int, top: int) -> TokenLogprob:
    """Invented: the token itself is always the likeliest."""
    others = [other for other in range(top) if other != token]
    return TokenLogprob(-0.125, [(id, -0.125 - rank) for rank, id in enumerate([token, *others][:top])])


class Loop:
    """Runs until told to leave."""

    def __init__(
        self,
        channel: EngineChannel,
        author: Author,
        behaviour: Behaviour,
        ready: Ready,
        pulse: Pulse,
        prefixes: Prefixes | None,
    ) -> None:
        """`prefixes`: None without a prefix cache."""
        self._channel = channel
        self._author = author
        self._behaviour = behaviour
        self._ready = ready
        self._pulse = pulse
        self._prefixes = prefixes
        self._running: dict[str, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._filler = author.filler()
        self._steps = self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0
        self._step_seconds = 0.0

    def run(self) -> None:
        """Serve until a Shutdown message."""
        while True:
            messages = list(self._channel.receive(self._wait_ms()))
            began = time.monotonic()
            self._pulse.step_started = began
            refused: list[Output] = []
            for message in messages:
                if isinstance(message, Shutdown):
                    return
                if isinstance(message, Abort):
                    self._forget(message.id)
                elif (answer := self._take(message)) is not None:
                    refused.append(answer)
            self._misbehave()
            outputs = refused + self._step(time.monotonic())
            if outputs or messages:
                self._step_seconds += time.monotonic() - began
                self._channel.send(Outputs(outputs, self._stats()))
            self._pulse.step_started = None

    def _wait_ms(self) -> int:
        """Until the next token is due."""
        if not self._running:
            return _IDLE_MS
        next_s = min(sequence.due_s for sequence in self._running.values())
        return max(0, min(_IDLE_MS, round(1000 * (next_s - time.monotonic()))))

    def _take(self, request: Generate) -> Output | None:
        """Admit a request; an Output when it is refused."""
        error = self._bad(request)
        answer: list[int] = []
        if error is None:
            try:
                answer = self._author.tokens(request)
            except GrammarRefused as refusal:
                error = RequestError("invalid_request", f"the grammar of this request cannot be used: {refusal}")
        if error is not None:
            return Output(request.id, finish="error", error=error)
        garbage_after = self._behaviour.garbage_after
        if garbage_after is not None and len(answer) > garbage_after and self._behaviour.strike():
            answer = answer[:garbage_after] + self._author.garbage(request.sampling.seed)
        cached = 0 if self._prefixes is None else self._prefixes.reuse(request.prompt)
        self._prompt_tokens += len(request.prompt)
        self._cached_tokens += cached
        self._waiting.append(Sequence(request, answer, cached, time.monotonic() + self._behaviour.ttft_ms / 1000))
        self._admit()
        return None

    def _bad(self, request: Generate) -> RequestError | None:
        ids = [*request.prompt, *request.sampling.logit_bias, *request.sampling.stop_ids]
        wrong = next((token for token in ids if not 0 <= token < self._ready.vocab_size), None)
        if wrong is not None:
            size = self._ready.vocab_size
            return RequestError("invalid_request", f"token id {wrong} is outside the vocabulary of {size} tokens")
        if not request.prompt:
            return RequestError("invalid_request", "the prompt is empty; send at least one token")
        total, window = len(request.prompt) + request.sampling.max_tokens, self._ready.max_model_len
        if total > window:
            return RequestError("context_length_exceeded", f"{total} tokens are more than the window of {window} tokens")
        return None

    def _forget(self, id: str) -> None:
        self._running.pop(id, None)
        self._waiting = deque(sequence for sequence in self._waiting if sequence.request.id != id)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._ready.max_num_seqs:
            sequence = self._waiting.popleft()
            self._running[sequence.request.id] = sequence

    def _step(self, now_s: float) -> list[Output]:
        """One token for every sequence that has one due."""
        outputs = []
        for sequence in list(self._running.values()):
            if sequence.due_s > now_s:
                continue
            sequence.due_s += self._behaviour.tpot_ms / 1000
            output = sequence.step(self._filler)
            outputs.append(output)
            self._generated_tokens += len(output.tokens)
            if output.finish is not None:
                del self._running[sequence.request.id]
        self._steps += bool(outputs)
        self._admit()
        return outputs

    def _misbehave(self) -> None:
        """Die or stall when an answer has come to the point where that was asked for. Neither returns."""
        wanted = self._behaviour
        sent = max((sequence.sent for sequence in self._running.values()), default=-1)
        if wanted.die_after is not None and sent >= wanted.die_after and wanted.strike():
            self._channel.close()
            _log.error("dying, as asked, after %d tokens of an answer", sent)
            os._exit(_DIED)
        if wanted.stall_after is not None and sent >= wanted.stall_after and wanted.strike():
            _log.error("stalling, as asked, after %d tokens of an answer", sent)
            threading.Event().wait()  # the pulse goes on and tells how long this step takes

    def _stats(self) -> Stats:
        running = self._running.values()
        page_tokens = self._ready.groups[0].page_tokens
        return Stats(
            steps=self._steps,
            running=len(running),
            waiting=len(self._waiting),
            pages_total=self._ready.num_pages,
            pages_active=sum(-(-(len(each.request.prompt) + each.sent) // page_tokens) for each in running),
            pages_cached=0 if self._prefixes is None else len(self._prefixes),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            step_seconds=self._step_seconds,
        )
