"""Admission and the end: a full queue, draining, second signals, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fakes.running import Running, alive
from tests.waiting import PATIENCE_S


def test_queue_full(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--rate", "40", "--max-num-seqs", "2", server={"max_queue": 3}) as running:
        running.ready()
        body = {"prompt": "a", "max_tokens": 30, "ignore_eos": True}
        with ThreadPoolExecutor(5) as pool:
            taken = [pool.submit(running.client.post, "/v1/completions", json=body) for _ in range(5)]
            running.until(lambda: len(running.diary("generate")) == 5)
            answer = running.client.post("/v1/completions", json=body)
            assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "queue_full"
            assert running.health()[0] == 200
            assert [future.result(PATIENCE_S).status_code for future in taken] == [200] * 5
        assert running.client.post("/v1/completions", json=body | {"max_tokens": 1}).status_code == 200


def begin(running: Running, pool: ThreadPoolExecutor, tokens: int) -> Future[Any]:
    body = {"prompt": "a", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    future = pool.submit(running.client.post, "/v1/completions", json=body)
    running.until(lambda: len(running.diary("generate")) == 1)
    return future


def test_sigterm_drains(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--rate", "50") as running, ThreadPoolExecutor(1) as pool:
        running.ready()
        answer = begin(running, pool, 50)
        engine = running.engine_pid()
        running.process.terminate()
        health = running.until(lambda: (found := running.health())[0] == 503 and found)
        assert health[1]["status"] == "draining"
        refused = running.client.post("/v1/completions", json={"prompt": "a"})
        assert refused.status_code == 503 and refused.headers["retry-after"] and refused.json()["error"]["code"] == "draining"
        assert answer.result(PATIENCE_S).text.endswith("data: [DONE]\n\n") and '"error"' not in answer.result().text
        assert running.process.wait(PATIENCE_S) == 0
        assert not alive(engine) and running.diary("shutdown")


def test_what_does_not_finish_in_time_is_ended(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--rate", "10", server={"drain_s": 0.3}) as running, ThreadPoolExecutor(1) as pool:
        running.ready()
        answer = begin(running, pool, 400)
        running.process.terminate()
        assert running.process.wait(PATIENCE_S) == 0
        assert '"code":"cancelled"' in answer.result(PATIENCE_S).text
        assert not alive(running.engine_pid())


def test_a_second_signal_ends_at_once(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--rate", "10") as running, ThreadPoolExecutor(1) as pool:
        running.ready()
        answer = begin(running, pool, 400)
        running.process.send_signal(signal.SIGINT)
        running.until(lambda: running.health()[0] == 503)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(PATIENCE_S) == 0
        assert not alive(running.engine_pid())
        assert "[DONE]" not in answer.result(PATIENCE_S).text or '"error"' in answer.result().text


def test_leaving_while_the_engine_loads(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--load-s", "60") as running:
        running.listening()
        running.process.terminate()
        assert running.process.wait(PATIENCE_S) == 0


def test_the_engine_dies_with_the_gateway(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path) as running:
        running.ready()
        running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        engine = running.engine_pid()
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        running.until(lambda: not alive(engine), ended=True)


def test_a_busy_port_is_told(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path) as running:
        running.listening()
        arguments = running.process.args
        assert isinstance(arguments, list)
        second = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_S)
        assert second.returncode != 0 and f"cannot listen on 127.0.0.1 port {running.port}" in second.stderr


def test_the_ready_message(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path) as running:
        running.ready()
        text = running.log()
        assert f"Tokenwell is ready at {running.url}/v1" in text and text.count("Tokenwell is ready") == 1
        assert "window    512 tokens" in text and "31 sessions x 512 tokens" in text
        assert "attention: fake (there is no other)" in text and "fake engine: started" in text
