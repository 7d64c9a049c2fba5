"""Puts tasks to an endpoint, several at a time if wished, and measures its answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tokenwell.agent.endpoint import Endpoint, EndpointError, Reply
from tokenwell.readiness.judge import Made, Trial, Verdict
from tokenwell.readiness.task import KINDS, LANGUAGES, Kind, Language, Task

MOST_TOKENS = 4096  # of one answer: a model that thinks needs them, one that cannot stop would take the whole window


@dataclass(frozen=True)
class Answer:
    """How long one answer took. first_s: until its first piece came, 0 when none did; tokens: 0 when the endpoint tells none."""

    streamed: bool
    first_s: float
    seconds: float
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """One task, done or not. error: the endpoint failed."""

    task: Task
    verdict: Verdict
    answers: tuple[Answer, ...] = ()
    error: bool = False


@dataclass
class Work:
    """Outcomes of an endpoint, as they come. Threads take the tasks; they end with the process when nobody waits any more."""

    endpoint: Endpoint
    tasks: Sequence[Task]
    parallel: int = 1
    _waiting: queue.SimpleQueue[tuple[Task, bool]] = field(default_factory=queue.SimpleQueue)
    _done: queue.SimpleQueue[Outcome | BaseException] = field(default_factory=queue.SimpleQueue)

    def __iter__(self) -> Iterator[Outcome]:
        """Every second task is streamed."""
        for number, task in enumerate(self.tasks):
            self._waiting.put((task, number % 2 == 0))
        for _ in range(min(self.parallel, len(self.tasks))):
            threading.Thread(target=self._take, daemon=True).start()
        for _ in self.tasks:
            outcome = self._done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome

    def _take(self) -> None:
        while True:
            try:
                task, streamed = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._done.put(attempt(self.endpoint, task, streamed=streamed))
            except BaseException as error:  # a fault of ours must not look like a hang
                self._done.put(error)
                return


def attempt(endpoint: Endpoint, task: Task, *, streamed: bool) -> Outcome:
    """Lead one conversation. What the endpoint cannot answer is a failure."""
    trial = Trial(task)
    messages: list[dict[str, Any]] = [{"role": "system", "content": task.system}] if task.system else []
    answers: list[Answer] = []
    while (said := trial.user) is not None:
        messages.append({"role": "user", "content": said})
        results: list[str] | None = []
        while results is not None:
            reply = Reply(endpoint, _request(endpoint, task, messages, streamed))
            try:
                for _ in reply:
                    pass
            except EndpointError as error:
                trial.gave_up(str(error))
                return Outcome(task, trial.verdict(), tuple(answers), error=True)
            answers.append(Answer(streamed, reply.first_s, reply.seconds, reply.prompt_tokens, reply.tokens))
            messages.append(reply.message())
            results = trial.answered(reply.text, [Made(call.name, call.arguments) for call in reply.calls])
            for call, content in zip(reply.calls, results or (), strict=False):
                messages.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content})
    verdict = trial.verdict()
    if reply.finish == "length" and not verdict.passed:
        verdict = replace(verdict, got=f"{verdict.got} (cut off: the model reached its limit of tokens)")
    return Outcome(task, verdict, tuple(answers))


def choose(tasks: Sequence[Task], kind: Kind | None, language: Language | None, most: int | None) -> list[Task]:
    """The tasks of a kind and a language, or of all; `most` of each kind and language, spread over the categories."""
    chosen: list[Task] = []
    for each_language in LANGUAGES if language is None else (language,):
        for each_kind in KINDS if kind is None else (kind,):
            found = [task for task in tasks if task.kind == each_kind and task.language == each_language]
            count = len(found) if most is None else min(most, len(found))
            chosen += [found[place * len(found) // count] for place in range(count)]
    return chosen


def _request(endpoint: Endpoint, task: Task, messages: list[dict[str, Any]], streamed: bool) -> dict[str, Any]:
    request: dict[str, Any] = {"model": endpoint.model, "messages": messages, "temperature": 0, "max_tokens": MOST_TOKENS}
    if task.tools:
        request["tools"] = list(task.tools)
    request["stream"] = streamed
    if streamed:
        request["stream_options"] = {"include_usage": True}
    return request
