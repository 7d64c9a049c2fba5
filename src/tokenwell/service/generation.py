"""From the engine's tokens to text: one generation is the answer to one client request, all its choices.

Owns detokenising per choice, stop strings, counting for usage, and starting over after a replay. Knows no dialect: the API
layer turns pieces into its chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from tokenwell.chat.events import Event
from tokenwell.chat.model import TextStream
from tokenwell.service.cache_doctor import Turn
from tokenwell.service.job import Job, JobRestarted, RequestFailed
from tokenwell.service.supervisor import Supervisor
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate, Output, TokenLogprob


@dataclass(slots=True)
class Piece:
    """What one step brought one choice. `tokens` are those that count for usage, a closing stop token included."""

    index: int
    events: list[Event]
    tokens: list[int]
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None
    finish: str | None = None  # "stop" | "length" | "tool_calls"
    stop_reason: str | int | None = None  # the stop string, or the stop token id that the request named


@dataclass(slots=True)
class Whole:
    """A finished choice."""

    events: list[Event] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] | None = None
    finish: str = "stop"
    stop_reason: str | int | None = None

    def add(self, piece: Piece) -> None:
        """Append what a piece brought."""
        self.events += piece.events
        self.tokens += piece.tokens
        self.logprobs += piece.logprobs or ()
        if piece.prompt_logprobs is not None:
            self.prompt_logprobs = piece.prompt_logprobs
        if piece.finish is not None:
            self.finish = piece.finish
            self.stop_reason = piece.stop_reason


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: each prompt is counted once, however many choices continue it."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cache_lost: str | None = None  # why less than half of the turn before was in the prefix cache


@dataclass(frozen=True)
class StopRules:
    """When the text ends, beyond the model's own stop ids."""

    strings: tuple[str, ...] = ()
    token_ids: frozenset[int] = frozenset()  # stop ids that the request named itself
    include: bool = False  # the stop string or token stays in the text


class Generation:
    """Runs one request. Use as a context manager: leaving it aborts whatever still runs.

    `requests` holds `choices` sequences for every prompt, in order. With `eager`, pieces go to the client as they come, and
    the first one ends the chance of a replay; pieces without text are then skipped unless `every_token`.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        requests: list[Generate],
        *,
        choices: int,
        noun: str,
        stop: StopRules,
        make_stream: Callable[[str], TextStream],
        eager: bool,
        every_token: bool = False,
    ) -> None:
        self.requests = requests
        self.turn: Turn | None = None  # how the prompt compares with the turn before it, where that is looked at
        self.first_token_at: float | None = None  # time.monotonic()
        self.last_token_at: float | None = None
        self.alone = False  # nothing else ran or waited when it was queued
        self._rows_at_start = self._rows_at_end = 1
        self._supervisor = supervisor
        self._job = Job(requests, noun)
        self._per_prompt = choices
        self._stop = stop
        self._make_stream = make_stream
        self._eager = eager
        self._every_token = every_token
        self._life = 0  # counts the engines that this request was given to
        self._reset()

    def __enter__(self) -> Generation:
        """Queue the request. Raises RequestFailed when no engine will ever take it."""
        self._supervisor.submit(self._job)
        self.alone = len(self.requests) == 1 and self._supervisor.open_sequences == 1
        self._rows_at_start = self._supervisor.open_sequences
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rows_at_end = self._supervisor.open_sequences
        self._supervisor.release(self._job)

    @property
    def done(self) -> bool:
        """True when every choice has finished."""
        return self._open == 0

    @property
    def rows(self) -> int:
        """About how many sequences ran with it, itself among them."""
        return (self._rows_at_start + self._rows_at_end + 1) // 2

    def wake(self) -> None:
        """Make a waiting `next` return early, with no pieces."""
        self._job.wake()

    def usage(self) -> Usage:
        """Counts so far."""
        firsts = range(0, len(self.requests), self._per_prompt)
        return Usage(
            prompt_tokens=sum(len(self.requests[index].prompt) for index in firsts),
            completion_tokens=sum(self._counts),
            cached_tokens=sum(self._cached[index] for index in firsts),
            reasoning_tokens=sum(stream.reasoning_tokens for stream in self._streams),
            cache_lost=self._cache_lost(),
        )

    def cache_verdict(self) -> str | None:
        """What became of the turn before in the prefix cache, in one line; None when there is nothing to tell (yet)."""
        if self.turn is None:
            return None
        cached = self._cached[0] if self.first_token_at is not None else None
        return self.turn.verdict(cached, self._kept)

    def _cache_lost(self) -> str | None:
        told = self.turn is not None and self.first_token_at is not None and self.turn.lost(self._cached[0])
        return self.cache_verdict() if told else None

    def completion_tokens(self, index: int) -> int:
        """Tokens of one choice so far."""
        return self._counts[index]

    async def next(self) -> list[Piece]:
        """Wait for news and return it; the list may be empty. Raises RequestFailed when the request is lost."""
        try:
            items = await self._job.take()
        except JobRestarted:
            self._reset()
            return []
        pieces: list[Piece] = []
        for index, output in items:
            if self._finished[index]:  # a stop string ended this choice; the engine had not heard yet
                continue
            piece = self._read(index, output)
            if piece.events or piece.finish or (self._every_token and piece.tokens) or piece.prompt_logprobs is not None:
                pieces.append(piece)
        if items:
            self.last_token_at = time.monotonic()
            if self.first_token_at is None:
                self.first_token_at = self.last_token_at
        if pieces and self._eager:
            self._job.started = True
        return pieces

    async def collect(self) -> list[Whole]:
        """Run to the end and return every choice whole."""
        wholes = [Whole() for _ in self.requests]
        life = self._life
        while not self.done:
            pieces = await self.next()
            if life != self._life:
                wholes = [Whole() for _ in self.requests]
                life = self._life
            for piece in pieces:
                wholes[piece.index].add(piece)
        return wholes

    def _reset(self) -> None:
        count = len(self.requests)
        self._life += 1
        self._open = count
        self._finished = [False] * count
        self._counts = [0] * count
        self._cached = [0] * count
        self._kept = 0  # of the first choice
        self._streams = [self._make_stream(request.id) for request in self.requests]
        self.first_token_at = None

    def _read(self, index: int, output: Output) -> Piece:
        if output.error is not None:
            raise RequestFailed(output.error)
        if output.finish not in (None, "stop", "length"):
            raise RequestFailed(RequestError("engine_failed", f"The engine ended the request with `{output.finish}`."))
        if output.cached_tokens:
            self._cached[index] = output.cached_tokens
        if index == 0 and output.kept_tokens:
            self._kept = output.kept_tokens
        stream = self._streams[index]
        tokens = output.tokens
        silent = output.stop_id is not None and not self._stop.include  # the stop token itself is no text
        events, used = self._feed(stream, tokens[:-1] if silent else tokens)
        finish = output.finish
        stop_reason: str | int | None = None
        if stream.stopped is None and finish is not None:
            events += stream.finish(cut=finish == "length")
            if output.stop_id in self._stop.token_ids:
                stop_reason = output.stop_id
        if stream.stopped is not None:
            tokens = tokens[:used]
            events += stream.finish(cut=True)  # a call that a stop string ends is half a call, as at the length limit
            finish, stop_reason = "stop", stream.stopped
            if output.finish is None:
                self._supervisor.abort(self._job, index)
        self._counts[index] += len(tokens)
        if finish is not None:
            if stream.called:
                finish = "tool_calls"
            self._finished[index] = True
            self._open -= 1
        logprobs = output.logprobs
        return Piece(
            index,
            events,
            tokens,
            logprobs if logprobs is None else logprobs[: len(tokens)],
            output.prompt_logprobs,
            finish,
            stop_reason,
        )

    def _feed(self, stream: TextStream, tokens: list[int]) -> tuple[list[Event], int]:
        """Events of `tokens`, and how many of them were used before a stop string ended the text."""
        if not self._stop.strings or len(tokens) == 1:
            return stream.feed(tokens), len(tokens)
        events: list[Event] = []
        for used, token in enumerate(tokens, 1):
            events += stream.feed([token])
            if stream.stopped is not None:
                return events, used
        return events, len(tokens)
