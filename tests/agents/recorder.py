"""A proxy before a service that keeps every request and answer: what an agent really sent and got. Streams pass at once."""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_HOP = {"connection", "transfer-encoding", "keep-alive", "host", "accept-encoding"}


@dataclass
class Exchange:
    """One request with its answer."""

    method: str
    path: str
    body: Any  # as JSON; None when there was none
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)  # of the answer, by their names in small letters
    answer: str = ""

    def events(self) -> list[Any]:
        """The data of an event stream."""
        lines = (line[6:] for line in self.answer.splitlines() if line.startswith("data: "))
        return [json.loads(line) for line in lines if line != "[DONE]"]


class Recorder:
    """A context manager; `url` is where the agent is sent."""

    def __init__(self, port: int) -> None:
        self.exchanges: list[Exchange] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                exchange = Exchange(self.command, self.path, json.loads(body) if body else None)
                recorder.exchanges.append(exchange)
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                exchange.status = response.status
                exchange.headers = {name.lower(): value for name, value in response.getheaders()}
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in {*_HOP, "content-length", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("connection", "close")
                self.end_headers()
                self.close_connection = True
                while chunk := response.read1(65536):
                    exchange.answer += chunk.decode("utf-8", "replace")
                    self.wfile.write(chunk)
                    self.wfile.flush()
                connection.close()

            do_GET = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

            def log_message(self, format: str, *arguments: object) -> None:
                """Say nothing: the exchanges are kept."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, path: str) -> list[Exchange]:
        """The exchanges of one path, its query left out."""
        return [each for each in self.exchanges if each.path.partition("?")[0] == path]
