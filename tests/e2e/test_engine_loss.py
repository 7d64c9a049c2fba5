"""The real engine is killed, frozen, broken or orphaned: nobody hangs, everybody is told, and the service comes back."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.conftest import Tiny
from tests.e2e import service as services
from tests.e2e.service import Faults, Service
from tests.waiting import PATIENCE_S

SLOTS = 24
FLAGS = ("--dtype=float32", "--threads=1", f"--max-num-seqs={SLOTS}", "--kv-cache-gib=0.05")
STEP_S = 0.02
GENERATED = "tokenwell_generation_tokens_total"


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loss")


@pytest.fixture(scope="module")
def faults(logs: Path) -> Faults:
    return Faults(logs / "fault")


@pytest.fixture(scope="module")
def service(tiny: Tiny, logs: Path, faults: Faults) -> Iterator[Service]:
    with services.serve(tiny("mistral-sliding"), logs / "service.log", *FLAGS, environment=faults.environment) as running:
        yield running


def body(seed: int, tokens: int) -> dict[str, Any]:
    return {"prompt": f"Client {seed} asks", "max_tokens": tokens, "seed": seed, "ignore_eos": True}


def whole(service: Service, seed: int, tokens: int = 30) -> dict[str, Any]:
    """A complete answer."""
    status, answer = service.post("/v1/completions", body(seed, tokens), timeout=PATIENCE_S)
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def events(service: Service, seed: int, tokens: int = 600, met: threading.Barrier | None = None) -> list[str]:
    """The data of every event of one stream; meets the others once text has come."""
    found: list[str] = []
    with httpx2.stream(
        "POST", service.url + "/v1/completions", json={**body(seed, tokens), "stream": True}, timeout=PATIENCE_S
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line:
                found.append(line.removeprefix("data: "))
            if met is not None and len(found) == 3:
                met.wait(PATIENCE_S)
                met = None
    return found


def check_error(found: list[str], words: str) -> None:
    """Some text, then an error that says why, then the end."""
    *texts, error, done = found
    assert done == "[DONE]"
    assert all("error" not in json.loads(text) for text in texts)
    said = json.loads(error)["error"]
    assert said["code"] == "engine_failed" and words in said["message"], said


def wait_health(service: Service, status: int) -> dict[str, Any]:
    """Wait until /health answers `status`; its body."""
    found: list[tuple[int, dict[str, Any]]] = [(0, {})]

    def answers() -> bool:
        found[0] = service.health()
        return found[0][0] == status

    service.wait_until(f"health {status}", answers)
    return found[0][1]


def test_kill_under_load(service: Service, faults: Faults) -> None:
    """Twenty streams end at once with an error event; twenty requests that had seen nothing are answered by the next engine."""
    expected = whole(service, 103)["choices"]
    restarts = service.health()[1]["engine_restarts"]
    everybody = threading.Barrier(21)
    with ThreadPoolExecutor(40) as pool:
        with faults.slow(STEP_S):
            streams = [pool.submit(events, service, seed, met=everybody) for seed in range(20)]
            everybody.wait(PATIENCE_S)
            waiting = [pool.submit(whole, service, 100 + seed) for seed in range(20)]
            service.wait_until("a queue", lambda: service.metric("tokenwell_requests_waiting") >= 16)
            os.kill(service.engine_pid(), signal.SIGKILL)
            for stream in streams:
                check_error(stream.result(PATIENCE_S), "SIGKILL")
            status, health = service.health()
            assert status == 503 and "SIGKILL" in health["reason"]
        answers = [future.result(PATIENCE_S) for future in waiting]
    assert all(answer["usage"]["completion_tokens"] == 30 for answer in answers)
    assert answers[3]["choices"] == expected  # what an undisturbed engine says
    health = wait_health(service, 200)
    assert health["engine_restarts"] == restarts + 1
    service.wait_until("an idle engine", service.idle)


def test_freeze(service: Service, faults: Faults) -> None:
    """Silence is noticed with the settings as they are; who waited is answered by the next engine."""
    expected = whole(service, 7)["choices"]
    frozen = service.engine_pid()
    with ThreadPoolExecutor(2) as pool:
        with faults.slow(STEP_S):
            before = service.metric(GENERATED)
            stream = pool.submit(events, service, 1)
            service.wait_until("a running stream", lambda: service.metric(GENERATED) > before + 3)
            os.kill(frozen, signal.SIGSTOP)
            waiting = pool.submit(whole, service, 7)
            health = wait_health(service, 503)
            assert "silent" in health["reason"] and "heartbeat_timeout_s is 5" in health["reason"]
            check_error(stream.result(PATIENCE_S), "silent")
        assert waiting.result(PATIENCE_S)["choices"] == expected
    wait_health(service, 200)
    assert services.engine_pids(service.process.pid) != [frozen]


def test_a_step_that_raises(service: Service, faults: Faults) -> None:
    """The stream ends with the reason; a request that had sent nothing is answered once steps work again."""
    expected = whole(service, 8)["choices"]
    with ThreadPoolExecutor(2) as pool:
        with faults.slow(STEP_S):
            before = service.metric(GENERATED)
            stream = pool.submit(events, service, 2)
            service.wait_until("a running stream", lambda: service.metric(GENERATED) > before + 3)
            waiting = pool.submit(whole, service, 8)
            service.wait_until("both", lambda: service.metric("tokenwell_requests_running") == 2)
        with faults.failing():
            check_error(stream.result(PATIENCE_S), "ArithmeticError: a fault was injected")
            status, health = service.health()
            assert status == 503 and "ArithmeticError" in health["reason"]
        assert waiting.result(PATIENCE_S)["choices"] == expected
    wait_health(service, 200)


def test_an_orphaned_engine_leaves_and_the_port_is_free_again(tiny: Tiny, logs: Path, faults: Faults) -> None:
    """kill -9 of the gateway under load; a new one on the same port serves, drains at SIGTERM and leaves nothing behind."""
    folder = tiny("mistral-sliding")
    with ExitStack() as stack:
        first = services.start(folder, logs / "first.log", *FLAGS, environment=faults.environment)
        stack.callback(services.stop, first)
        services.wait_healthy(first)
        check_orphaning(first, faults)
        second = services.start(folder, logs / "second.log", *FLAGS, environment=faults.environment, port=first.port)
        stack.callback(services.stop, second)
        services.wait_healthy(second)
        check_draining(second, faults)


def check_orphaning(service: Service, faults: Faults) -> None:
    with ThreadPoolExecutor(1) as pool, faults.slow(STEP_S):
        before = service.metric(GENERATED)
        cut: Future[Any] = pool.submit(events, service, 1)
        service.wait_until("a running stream", lambda: service.metric(GENERATED) > before + 3)
        service.process.kill()
        service.process.wait()
        assert isinstance(cut.exception(PATIENCE_S), httpx2.TransportError)
    service.wait_until("the end of the orphan", lambda: not services.engine_pids(service.process.pid))


def check_draining(service: Service, faults: Faults) -> None:
    with ThreadPoolExecutor(1) as pool, faults.slow(STEP_S):
        before = service.metric(GENERATED)
        last: Future[Any] = pool.submit(events, service, 1, 60)
        service.wait_until("a running stream", lambda: service.metric(GENERATED) > before + 3)
        service.process.terminate()
        assert wait_health(service, 503)["status"] == "draining"
        status, refused = service.post("/v1/completions", body(1, 1))
        assert status == 503 and refused["error"]["code"] == "draining"
        found = last.result(PATIENCE_S)
    assert found[-1] == "[DONE]" and json.loads(found[-2])["usage"]["completion_tokens"] == 60
    assert service.process.wait(PATIENCE_S) == 0
    assert services.engine_pids(service.process.pid) == []
