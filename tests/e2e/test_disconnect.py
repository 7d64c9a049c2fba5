"""A client that leaves frees everything within one step: in the queue, during prefill, during decoding, streaming or not."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Tiny
from tests.e2e.checkpoints import variant
from tests.e2e.service import Faults, Service, serve

SLOTS = 4
STEP_S = 0.08
LONG = [(index * index + 7 * index) % 251 + 20 for index in range(2000)]  # 250 steps of prefill
SHORT = LONG[:9]
STEPS = "tokenwell_engine_steps_total"
GENERATED = "tokenwell_generation_tokens_total"
RUNNING = "tokenwell_requests_running"
WAITING = "tokenwell_requests_waiting"


@pytest.fixture(scope="module")
def service(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Sliding and full layers, few slots, a small step budget, and steps that take long beside what a message takes."""
    logs = tmp_path_factory.mktemp("disconnect")
    folder = variant(tiny("gemma4-e"), logs / "long", config={"max_position_embeddings": 1 << 15})
    flags = ("--dtype=float32", "--threads=1", f"--max-num-seqs={SLOTS}", "--max-num-batched-tokens=8", "--kv-cache-gib=0.25")
    faults = Faults(logs / "fault")
    with serve(folder, logs / "service.log", *flags, environment=faults.environment) as running, faults.slow(STEP_S):
        yield running


def send(service: Service, prompt: list[int], *, stream: bool, **more: Any) -> socket.socket:
    """A request on a connection of its own, sent and not yet answered."""
    content = json.dumps({"prompt": prompt, "max_tokens": 20_000, "ignore_eos": True, "stream": stream, **more}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {len(content)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", service.port))
    connection.sendall(head.encode() + content)
    return connection


def check_leaving(service: Service, *connections: socket.socket) -> None:
    """Clients leave during some step: that one ends, perhaps one more has begun when the abort arrives, and that is all."""
    before = service.metric(STEPS)
    for connection in connections:
        connection.close()
    service.wait_until("freed pages", service.idle)
    assert service.metric(STEPS) <= before + 2


@pytest.mark.parametrize("stream", [True, False])
def test_during_prefill(service: Service, stream: bool) -> None:
    prompt = [*LONG[:5], 300 + stream, *LONG]  # another one each time: nothing of it is cached
    before = service.metrics()
    connection = send(service, prompt, stream=stream)
    service.wait_until("a part of the prefill", lambda: service.metric(STEPS) > before[STEPS] + 3)
    check_leaving(service, connection)
    assert service.metric(GENERATED) == before[GENERATED]


@pytest.mark.parametrize("stream", [True, False])
def test_during_decoding(service: Service, stream: bool) -> None:
    before = service.metrics()
    connection = send(service, SHORT, stream=stream)
    service.wait_until("some tokens", lambda: service.metric(GENERATED) > before[GENERATED] + 3)
    check_leaving(service, connection)


def test_several_choices_at_once(service: Service) -> None:
    connection = send(service, SHORT, stream=True, n=SLOTS + 2)
    service.wait_until("running and waiting choices", lambda: service.metric(RUNNING) == SLOTS)
    assert service.metric(WAITING) == 2
    check_leaving(service, connection)


@pytest.mark.parametrize("stream", [True, False])
def test_in_the_queue(service: Service, stream: bool) -> None:
    """Who left the queue is never computed; who runs is not disturbed."""
    first = send(service, SHORT, stream=True, n=SLOTS)
    service.wait_until("full slots", lambda: service.metric(RUNNING) == SLOTS)
    before = service.metric("tokenwell_prompt_tokens_total")
    second = send(service, LONG, stream=stream)
    service.wait_until("a queue", lambda: service.metric(WAITING) == 1)
    second.close()
    service.wait_until("an empty queue", lambda: service.metric(WAITING) == 0)
    assert service.metric(RUNNING) == SLOTS
    check_leaving(service, first)
    assert service.metric("tokenwell_prompt_tokens_total") == before


def test_everybody_at_once(service: Service) -> None:
    """Prefilling, decoding and waiting clients leave together; the next one is served as ever."""
    expected = service.post("/v1/completions", {"prompt": SHORT, "max_tokens": 5, "temperature": 0})[1]["choices"]
    connections = [send(service, LONG[start:], stream=bool(start % 2)) for start in range(3)]
    connections += [send(service, SHORT, stream=bool(start % 2), seed=start) for start in range(5)]
    service.wait_until("full slots", lambda: service.metric(RUNNING) == SLOTS and service.metric(WAITING) == 4)
    check_leaving(service, *connections)
    assert service.post("/v1/completions", {"prompt": SHORT, "max_tokens": 5, "temperature": 0})[1]["choices"] == expected
    assert service.health()[1]["engine_restarts"] == 0


def test_after_half_of_the_request(service: Service) -> None:
    """A client that leaves before its body is complete was never there."""
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b'POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: 99\r\n\r\n{"prompt": "a')
    assert service.post("/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
    service.wait_until("an idle engine", service.idle)
