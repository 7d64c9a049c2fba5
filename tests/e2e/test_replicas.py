"""Two engines behind one address: a conversation stays where its prefix is, a crowd spreads, and one dies alone."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from tests.conftest import Tiny
from tests.e2e import service as services
from tests.e2e.service import Service
from tests.waiting import PATIENCE_S

FLAGS = ("--dtype=float32", "--threads=1", "--max-num-seqs=8", "--kv-cache-gib=0.05", "--replicas=2")
WORDS = "A sentence of which every conversation has its own, and which is long enough for whole blocks. " * 2


@pytest.fixture(scope="module")
def service(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("replicas") / "service.log"
    with services.serve(tiny("mistral"), log, *FLAGS) as running:
        running.wait_until("two engines", lambda: up(running) == [1.0, 1.0])
        yield running


def of_each(service: Service, name: str) -> list[float]:
    """One metric of both replicas."""
    found = service.metrics()
    return [found[f'tokenwell_replica_{name}{{replica="{replica}"}}'] for replica in range(2)]


def up(service: Service) -> list[float]:
    return of_each(service, "engine_up")


def turn(service: Service, prompt: str) -> tuple[str, int]:
    """A conversation goes on: all of it, and how much of it was cached."""
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    status, answer = service.post("/v1/completions", body)
    assert status == 200, answer
    details: Any = answer["usage"]["prompt_tokens_details"]
    return prompt + answer["choices"][0]["text"], details["cached_tokens"]


def test_a_conversation_stays_where_its_prefix_is(service: Service) -> None:
    texts = [f"{number}: {WORDS}" for number in range(4)]
    used = []
    for text in texts:
        before = of_each(service, "prompt_tokens_total")
        texts[texts.index(text)], cached = turn(service, text)
        after = of_each(service, "prompt_tokens_total")
        used.append([new > old for old, new in zip(before, after, strict=True)])
        assert cached < 32
    assert used == [[True, False], [False, True]] * 2  # equals take turns
    for place, text in enumerate(texts):
        before = of_each(service, "prompt_tokens_total")
        _, cached = turn(service, text + " And now?")
        assert cached >= 32
        assert [new > old for old, new in zip(before, of_each(service, "prompt_tokens_total"), strict=True)] == used[place]


def stream(service: Service, seed: int, met: threading.Barrier) -> list[str]:
    """The data of every event of one long stream; meets the others once text has come."""
    found: list[str] = []
    body = {"prompt": f"Client {seed} asks", "max_tokens": 900, "seed": seed, "ignore_eos": True, "stream": True}
    with httpx2.stream("POST", service.url + "/v1/completions", json=body, timeout=PATIENCE_S) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line:
                found.append(line.removeprefix("data: "))
            if len(found) == 3 and line:
                met.wait(PATIENCE_S)
    return found


def test_a_crowd_spreads_and_one_death_is_not_the_others(service: Service) -> None:
    everybody = threading.Barrier(9)
    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream, service, seed, everybody) for seed in range(8)]
        everybody.wait(PATIENCE_S)
        assert of_each(service, "requests_running") == [4.0, 4.0]
        os.kill(services.engine_pids(service.process.pid)[0], signal.SIGKILL)
        service.wait_until("a death", lambda: sum(up(service)) == 1)
        status, health = service.health()  # the other one serves
        assert status == 200 and "1 of 2 replicas serve" in health["reason"]
        assert sorted(one["status"] for one in health["replicas"]) == ["ok", "restarting"]
        ends = [future.result(PATIENCE_S) for future in streams]
    broken = [found for found in ends if "error" in json.loads(found[-2])]
    assert len(broken) == 4 and all("SIGKILL" in found[-2] for found in broken)
    assert all(len(found) > 100 for found in ends if found not in broken)
    deadline = time.monotonic() + 30
    while up(service) != [1.0, 1.0] and time.monotonic() < deadline:
        assert turn(service, "Somebody asks meanwhile")[0]
    assert up(service) == [1.0, 1.0] and service.health()[1]["engine_restarts"] == 1
    service.wait_until("idle engines", service.idle)
