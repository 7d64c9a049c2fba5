"""Two engines behind one gateway, one of which dies, stalls or never starts: what can be served is served by the other."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fakes.running import Running
from tests.waiting import PATIENCE_S


def two(running: Running) -> bool:
    """Both engines serve."""
    health = running.health()[1]
    return [one["status"] for one in health.get("replicas", ())] == ["ok", "ok"]


def whole(running: Running, seed: int) -> Any:
    return running.client.post("/v1/completions", json={"prompt": f"{seed}", "max_tokens": 60, "seed": seed, "ignore_eos": True})


def test_what_had_sent_nothing_goes_to_the_other_one_at_once(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--rate", "60", replicas=2) as running, ThreadPoolExecutor(8) as pool:
        running.until(lambda: two(running))
        answers = [pool.submit(whole, running, seed) for seed in range(8)]
        running.until(lambda: len(running.diary("generate")) == 8)
        pids = [entry["pid"] for entry in running.diary("generate")]
        assert sorted(map(pids.count, set(pids))) == [4, 4]
        victim = running.engine_pid()
        os.kill(victim, signal.SIGKILL)
        found = [answer.result(PATIENCE_S) for answer in answers]
        assert all(answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 60 for answer in found)
        again = running.diary("generate")[8:]
        assert len(again) == 4 and {entry["pid"] for entry in again} == set(pids) - {victim}
        running.until(lambda: two(running))
        assert running.metric("tokenwell_engine_restarts_total") == 1
        assert running.metric('tokenwell_replica_generation_tokens_total{replica="0"}') > 0


def test_none_that_can_start_is_told_once(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--fatal", "final", replicas=2) as running:
        status, health = running.until(lambda: (found := running.health())[1].get("status") == "failed" and found)
        assert status == 503 and "truncated" in health["reason"]
        refused = running.client.post("/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503 and "will not be started again" in refused.text


def test_requests_wait_for_the_first_engine(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--load-s", "0.7", replicas=2) as running, ThreadPoolExecutor(4) as pool:
        running.listening()
        answers = [pool.submit(whole, running, seed) for seed in range(4)]
        assert all(answer.result(PATIENCE_S).status_code == 200 for answer in answers)
        running.until(lambda: two(running))
        assert "replicas: 2 (each has the limits" in running.log() and running.log().count("Tokenwell is ready") == 1
