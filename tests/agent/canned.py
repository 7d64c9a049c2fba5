"""An endpoint that gives prepared answers, one after another, and keeps what it was asked. Knows no pytest."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes.endpoint import Answer, FakeEndpoint


class Canned(FakeEndpoint):
    """A context manager; `answers` are (status, content type, body) and are taken in order."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers = list(answers)

    def answer(self, request: Any) -> Answer:
        return self.answers.pop(0)


def stream(*chunks: Any, done: bool = True) -> tuple[int, str, bytes]:
    """A streamed answer. A chunk is a delta, or with a key "choices", "usage" or "error" a whole chunk."""
    whole = [chunk if {"choices", "usage", "error"} & set(chunk) else {"choices": [{"delta": chunk}]} for chunk in chunks]
    body = b": a comment\n\n" + b"".join(
        b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\r\n\r\n" for chunk in whole
    )
    return 200, "text/event-stream", body + (b"data: [DONE]\n\n" if done else b"")


def end(reason: str = "stop") -> dict[str, Any]:
    """The chunk that ends an answer."""
    return {"choices": [{"delta": {}, "finish_reason": reason}]}


def call(name: str, arguments: str, index: int | None = 0, id: str | None = "c1") -> dict[str, Any]:
    """A delta with one call. Without `index` or `id` these are left out."""
    part: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    part |= {} if index is None else {"index": index}
    part |= {} if id is None else {"id": id}
    return {"tool_calls": [part]}


def as_json(content: Any, status: int = 200) -> tuple[int, str, bytes]:
    """An answer that is not streamed."""
    return status, "application/json", json.dumps(content).encode()
