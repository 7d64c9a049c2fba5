"""A real service in processes of its own, as a user starts it, and what tests want to know of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tests.waiting import PATIENCE_S, free_port

_START_S = 240.0  # on a card each compiles its kernels, beside others for minutes


@dataclass
class Service:
    """A running `tokenwell serve`."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET."""
        return self._open(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any, timeout: float = 120) -> tuple[int, Any]:
        """Status and parsed body of a POST of JSON."""
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body).encode(), headers={"content-type": "application/json"}
        )
        status, text = self._open(request, timeout)
        return status, json.loads(text)

    def _open(self, request: urllib.request.Request, timeout: float = PATIENCE_S) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of /health."""
        status, text = self.get("/health")
        return status, json.loads(text)

    def metrics(self) -> dict[str, float]:
        """All samples of one scrape by their full names, labels included as they are printed."""
        lines = (line.rsplit(" ", 1) for line in self.get("/metrics")[1].splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def metric(self, name: str) -> float:
        """One sample of /metrics by its full name."""
        return self.metrics()[name]

    def idle(self) -> bool:
        """Nothing waits, nothing runs and no page is held."""
        now = self.metrics()
        names = ("tokenwell_requests_running", "tokenwell_requests_waiting", 'tokenwell_kv_pages{state="active"}')
        return not any(now[name] for name in names)

    def wait_until(self, what: str, true: Any, within: float = PATIENCE_S) -> None:
        """Poll until `true()` holds; AssertionError naming `what` with the service's log after `within` seconds."""
        deadline = time.monotonic() + within
        while not true():
            assert time.monotonic() < deadline, f"{what} did not happen within {within} s; the log:\n{self.log.read_text()}"
            time.sleep(0.02)

    def engine_pid(self) -> int:
        """The engine's process id."""
        [pid] = engine_pids(self.process.pid)
        return pid


def engine_pids(gateway_pid: int) -> list[int]:
    """The engines that a gateway started and that still exist, also when the gateway itself does not any more."""
    found = []
    for process in psutil.process_iter(["cmdline"]):  # a zombie has no command line
        command = process.info["cmdline"] or []
        if "tokenwell.engine" in command and f'"parent_pid":{gateway_pid},' in command[-1]:
            found.append(process.pid)
    return found


class Faults:
    """Makes the steps of a service's engines slow or fail; see faulty/sitecustomize.py."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environment = {"PYTHONPATH": str(Path(__file__).with_name("faulty")), "STEP_FAULT": str(file)}

    @contextmanager
    def slow(self, step_s: float) -> Iterator[None]:
        """Every step takes at least so long meanwhile."""
        self._file.write_text(f"sleep {step_s}")
        try:
            yield
        finally:
            self._file.unlink()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Every step raises meanwhile."""
        self._file.write_text("raise")
        try:
            yield
        finally:
            self._file.unlink()


@contextmanager
def serve(folder: Path | None, log: Path, *flags: str, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """Start `tokenwell serve [folder] flags`, wait until it is healthy, stop it afterwards."""
    service = start(folder, log, *flags, environment=environment)
    try:
        wait_healthy(service)
        yield service
    finally:
        stop(service)


def start(
    folder: Path | None, log: Path, *flags: str, environment: dict[str, str] | None = None, port: int | None = None
) -> Service:
    """Start a service and return at once. `environment` adds variables; without a `port` a free one is taken.

    It neither reads the settings of whoever runs the tests nor leaves anything in their home.
    """
    port = free_port() if port is None else port
    model = [str(folder)] if folder else []
    command = [sys.executable, "-m", "tokenwell", "serve", *model, "--port", str(port), *flags]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWELL_")}
    own = {f"XDG_{kind.upper()}_HOME": str(log.parent / kind) for kind in ("cache", "config", "state")}
    variables = inherited | own | (environment or {})
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=variables, cwd=log.parent)
    return Service(f"http://127.0.0.1:{port}", port, process, log)


def wait_healthy(service: Service) -> None:
    """Wait until /health answers 200."""

    def healthy() -> bool:
        assert service.process.poll() is None, f"the service left; its log:\n{service.log.read_text()}"
        try:
            return service.get("/health")[0] == 200
        except OSError:
            return False

    service.wait_until("a healthy service", healthy, _START_S)


def stop(service: Service) -> None:
    """SIGTERM, and SIGKILL if that is not enough."""
    service.process.send_signal(signal.SIGTERM)
    try:
        service.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        service.process.kill()
        service.process.wait()
