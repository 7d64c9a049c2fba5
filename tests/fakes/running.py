"""A gateway process under test: start it, ask it, wait for a state, end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
import msgspec
from tests.waiting import PATIENCE_S, free_port

from tokenwell.config.settings import EngineSettings, ModelSettings, ServerSettings, Settings, StoreSettings

GATEWAY = Path(__file__).with_name("gateway.py")


class Running:
    """One gateway in front of one fake engine. A context manager; leaving it kills what is left."""

    def __init__(
        self,
        checkpoint: Path,
        folder: Path,
        *engine: str,
        server: dict[str, Any] | None = None,
        model: dict[str, Any] | None = None,
        store: dict[str, Any] | None = None,
        **timeouts: float,
    ) -> None:
        self.folder = folder
        self.diary_path = folder / "diary.jsonl"
        self.log_path = folder / "gateway.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = Settings(
            server=ServerSettings(port=self.port, **(server or {})),
            model=ModelSettings(path=str(checkpoint), name=["fake"], **(model or {})),
            engine=EngineSettings(**timeouts),  # type: ignore[arg-type]
            store=StoreSettings(**{"folder": str(folder / "state"), **(store or {})}),
        )
        arguments = [*engine, "--diary", str(self.diary_path)]
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, str(GATEWAY), msgspec.json.encode(settings).decode(), json.dumps(arguments)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.client = httpx2.Client(base_url=self.url, timeout=PATIENCE_S)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.client.close()
        if kind is not None:
            self._confess()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()

    def _confess(self) -> None:
        """Print what the gateway printed and where its threads are, for the report of a failed test."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)  # faulthandler's, in gateway.py
            time.sleep(0.2)
        print(f"gateway {self.process.pid}, status {self.process.poll()}, printed:\n{self.log()}")

    def until(self, what: Callable[[], Any], timeout_s: float = PATIENCE_S, *, ended: bool = False) -> Any:
        """The first true value of `what`; fails the test after `timeout_s`, or when the gateway ends and was not `ended`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = what()
            if value:
                return value
            assert ended or self.process.poll() is None or what(), f"the gateway ended:\n{self.log()}"
            time.sleep(0.01)
        raise AssertionError(f"not within {timeout_s} s; health {self.health()}; log:\n{self.log()}")

    def ready(self) -> Running:
        """Wait until /health is 200."""
        self.until(lambda: self.health()[0] == 200)
        return self

    def listening(self) -> Running:
        """Wait until HTTP is answered at all."""
        self.until(lambda: self.health()[0] != 0)
        return self

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /health; status 0 when nobody listens."""
        try:
            answer = self.client.get("/health")
        except httpx2.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    def diary(self, what: str) -> list[dict[str, Any]]:
        """What the fake engines noted of one kind."""
        if not self.diary_path.exists():
            return []
        lines = [json.loads(line) for line in self.diary_path.read_text().splitlines()]
        return [line for line in lines if line["what"] == what]

    def engine_pid(self) -> int:
        """The engine that took the last request."""
        pid: int = self.diary("generate")[-1]["pid"]
        return pid

    def started_pid(self) -> int:
        """The engine that was started last."""
        return int(self.log().rsplit("engine started as process ", 1)[1].split()[0])

    def log(self) -> str:
        """Everything the gateway printed."""
        return self.log_path.read_text(errors="replace")

    def metric(self, line_start: str) -> float:
        """Value of the first metric whose line starts like this."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(line_start):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {line_start}")


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"
