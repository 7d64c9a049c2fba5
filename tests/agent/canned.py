"""An endpoint that gives prepared answers, one after another, and keeps what it was asked. Knows no pytest."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any


class Canned:
    """A context manager; `answers` are (status, content type, body) and are taken in order."""

    def __init__(self, *answers: tuple[int, str, bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []
        self.keys: list[str | None] = []
        canned = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                canned.keys.append(self.headers.get("authorization"))
                self._give(*canned.answers.pop(0))

            def do_POST(self) -> None:
                canned.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.do_GET()

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

    def __enter__(self) -> Canned:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


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
