"""An endpoint that answers every task as its gold dialogue does, in the OpenAI Chat API. Knows no pytest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any

from training import held_out

from tokenwell.readiness.task import Task

Message = dict[str, Any]


class Perfect:
    """A context manager. `spoil` may change an answer, a message of the assistant; None refuses the request."""

    def __init__(self, tasks: Iterable[Task], spoil: Callable[[Message], Message | None] = lambda message: message) -> None:
        self.requests: list[Any] = []
        self._answers: dict[str, Message] = {}
        for task in tasks:
            messages = held_out.gold(task).messages
            for place, message in enumerate(messages):
                if message["role"] == "assistant":
                    self._answers[_key(messages[:place], list(task.tools))] = message
        perfect = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._give(200, "application/json", json.dumps({"data": [{"id": "perfect"}]}).encode())

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                perfect.requests.append(request)
                answer = spoil(perfect._answers[_key(request["messages"], request.get("tools", []))])
                if answer is None:
                    self._give(500, "application/json", b'{"error": {"message": "out of order"}}')
                elif request["stream"]:
                    self._give(200, "text/event-stream", _streamed(answer))
                else:
                    self._give(200, "application/json", json.dumps(_whole(answer)).encode())

            def _give(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.base = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Perfect:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


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
