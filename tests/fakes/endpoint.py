"""An HTTP endpoint on a real socket whose answers a test decides. Knows no pytest."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

Answer = tuple[int, str, bytes]  # status, content type, body


class FakeEndpoint(ABC):
    """A context manager, reached at `base`; `requests` and `keys` are what it was sent. Answers have `headers` too."""

    def __init__(self) -> None:
        self.requests: list[Any] = []  # bodies of POSTs
        self.keys: list[str | None] = []
        self.headers: dict[str, str] = {}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fake.requests.append(request)
                self._answer(request)

            def _answer(self, request: Any) -> None:
                fake.keys.append(self.headers.get("authorization"))
                status, kind, body = fake.answer(request)
                self.send_response(status)
                self.send_header("content-type", kind)
                for name, value in fake.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.base = f"http://127.0.0.1:{self._server.server_port}/v1"

    @abstractmethod
    def answer(self, request: Any) -> Answer:
        """The answer to a POST's body; to a GET, when it is None."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
