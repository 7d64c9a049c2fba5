"""An endpoint that answers every task as its gold dialogue does, in the OpenAI Chat API. Knows no pytest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tests.fakes.endpoint import Answer, FakeEndpoint
from training import held_out

from tokenwell.readiness.task import Task

Message = dict[str, Any]


class Perfect(FakeEndpoint):
    """A context manager. `spoil` may change an answer, a message of the assistant; None refuses the request."""

    def __init__(self, tasks: Iterable[Task], spoil: Callable[[Message], Message | None] = lambda message: message) -> None:
        super().__init__()
        self._spoil = spoil
        self._answers: dict[str, Message] = {}
        for task in tasks:
            messages = held_out.gold(task).messages
            for place, message in enumerate(messages):
                if message["role"] == "assistant":
                    self._answers[_key(messages[:place], list(task.tools))] = message

    def answer(self, request: Any) -> Answer:
        if request is None:
            return 200, "application/json", json.dumps({"data": [{"id": "perfect"}]}).encode()
        answer = self._spoil(self._answers[_key(request["messages"], request.get("tools", []))])
        if answer is None:
            return 500, "application/json", b'{"error": {"message": "out of order"}}'
        if request["stream"]:
            return 200, "text/event-stream", _streamed(answer)
        return 200, "application/json", json.dumps(_whole(answer)).encode()


def _key(messages: list[Message], tools: list[Any]) -> str:
    """A conversation without the ids of its calls and the form of their arguments."""
    told: list[Any] = [tools]
    for message in messages:
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        told.append((message["role"], message["content"], [(call["name"], _object(call["arguments"])) for call in calls]))
    return json.dumps(told, sort_keys=True)


def _object(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def _calls(message: Message) -> list[Message]:
    found = []
    for place, call in enumerate(message.get("tool_calls", ())):
        function = {"name": call["function"]["name"], "arguments": json.dumps(call["function"]["arguments"])}
        found.append({"index": place, "id": call["id"], "type": "function", "function": function})
    return found


def _usage() -> Message:
    return {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def _whole(message: Message) -> Message:
    calls = _calls(message)
    choice = {"message": {"role": "assistant", "content": message["content"], "tool_calls": calls}}
    return {"choices": [choice | {"finish_reason": "tool_calls" if calls else "stop"}], "usage": _usage()}


def _streamed(message: Message) -> bytes:
    calls = _calls(message)
    deltas: list[Message] = [{"content": piece} for piece in message["content"].split("\0") if piece]
    deltas += [{"tool_calls": [call]} for call in calls]
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls" if calls else "stop"}]})
    chunks.append({"choices": [], "usage": _usage()})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
