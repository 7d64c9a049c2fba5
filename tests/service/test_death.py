"""The engine dies, freezes, talks nonsense or cannot start: clients are told at once, and the service comes back by itself."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.fakes.running import Running, alive
from tests.waiting import PATIENCE_S

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
QUICK = {"heartbeat_timeout_s": 0.6}


def stream_events(running: Running, seed: int, first: threading.Barrier | None = None) -> list[str]:
    """The data of every event of one stream; meets the others after the first text."""
    body = {"messages": HELLO, "max_tokens": 400, "stream": True, "seed": seed, "ignore_eos": True}
    events: list[str] = []
    with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line:
                events.append(line.removeprefix("data: "))
            if first is not None and len(events) == 3:
                first.wait(PATIENCE_S)
                first = None
    return events


def test_kill_under_load(checkpoint: Path, tmp_path: Path) -> None:
    """Twenty open streams get an error event, twenty requests that had sent nothing are answered by the next engine."""
    with Running(checkpoint, tmp_path, "--rate", "60", **QUICK) as running:
        running.ready()
        everybody = threading.Barrier(21)

        def whole(seed: int) -> Any:
            return running.client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 80, "seed": seed}).json()

        with ThreadPoolExecutor(40) as pool:
            streams = [pool.submit(stream_events, running, seed, everybody) for seed in range(20)]
            plain = [pool.submit(whole, seed) for seed in range(20)]
            running.until(lambda: len(running.diary("generate")) == 40)
            everybody.wait(PATIENCE_S)
            os.kill(running.engine_pid(), signal.SIGKILL)
            for stream in streams:
                *texts, error, done = stream.result(PATIENCE_S)
                assert json.loads(error)["error"]["code"] == "engine_failed" and done == "[DONE]"
                assert "SIGKILL" in json.loads(error)["error"]["message"]
                assert all("error" not in json.loads(text) for text in texts)
            answers = [future.result(PATIENCE_S) for future in plain]
        assert [answer["usage"]["completion_tokens"] for answer in answers] == [80] * 20
        # A replay gives what an undisturbed engine gives.
        assert answers[3]["choices"][0]["message"] == whole(3)["choices"][0]["message"]
        assert running.ready().health()[1]["engine_restarts"] == 1
        assert running.metric("tokenwell_engine_restarts_total") == 1


def test_sdk_sees_an_error(checkpoint: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with Running(checkpoint, tmp_path, "--die-after", "9", "--rate", "50", "--once", str(marker)) as running:
        running.ready()
        with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as sdk:
            with pytest.raises(openai.APIError, match="exited with status 3: fake engine: dying as asked"):
                list(sdk.chat.completions.create(model="fake", messages=HELLO, max_tokens=50, stream=True))
            assert sdk.chat.completions.create(model="fake", messages=HELLO, max_tokens=50).usage


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (("--freeze-after", "5"), "silent"),
        (("--garbage-after", "5"), "cannot be read"),
        (("--step-age-s", "9"), "one step"),
    ],
)
def test_sick_engines_are_replaced(checkpoint: Path, tmp_path: Path, fault: tuple[str, ...], reason: str) -> None:
    engine = (*fault, "--once", str(tmp_path / "marker"), "--rate", "200")
    with Running(checkpoint, tmp_path, *engine, step_timeout_s=5, **QUICK) as running:
        running.until(lambda: "Tokenwell is ready" in running.log())
        answer = running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 100})
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 100
        running.ready()
        assert reason in running.log()
        pids = {note["pid"] for note in running.diary("generate")}
        assert not any(alive(pid) for pid in pids - {running.engine_pid()})


def test_a_frozen_engine_makes_health_fail(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, **QUICK) as running:
        running.ready()
        running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        os.kill(running.engine_pid(), signal.SIGSTOP)
        health = running.until(lambda: (found := running.health())[0] == 503 and found)
        assert health[1]["status"] in ("stalled", "restarting", "loading")  # the next engine may be on its way already
        running.until(lambda: "silent" in running.log())
        running.ready()


def test_an_engine_that_told_that_it_will_be_silent_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--heartbeat-s", "2", "--quiet-s", "60", "--rate", "20", **QUICK) as running:
        running.ready()
        answer = running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 40})
        assert answer.status_code == 200
        assert "silent" not in running.log()


def test_a_request_is_replayed_twice_at_most(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--die-after", "5") as running:
        running.ready()
        answer = running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 100}, timeout=PATIENCE_S)
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.json()["error"]["code"] == "engine_failed" and "3 times" in answer.json()["error"]["message"]
        assert len(running.diary("generate")) == 3


def test_an_engine_that_dies_while_loading_does_not_hang_clients(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--fatal", "retry") as running:
        running.listening()
        answer = running.client.post("/v1/completions", json={"prompt": "a"}, timeout=PATIENCE_S)
        assert answer.status_code == 503 and "truncated" in answer.json()["error"]["message"]
        assert running.health()[0] == 503


def test_a_broken_checkpoint_is_not_tried_again(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--fatal", "final", "--load-s", "0.5") as running:
        running.listening()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(running.client.post, "/v1/completions", json={"prompt": "a"})
            assert waiting.result(PATIENCE_S).status_code == 503
        status, health = running.until(lambda: (found := running.health())[1]["status"] == "failed" and found)
        assert status == 503 and health["reason"] == "the checkpoint is broken: model.safetensors is truncated"
        for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}):
            answer = running.client.post("/v1/completions", json=body)
            assert answer.status_code == 503 and "truncated" in answer.json()["error"]["message"]
        assert running.health()[1]["engine_restarts"] == 0


def test_an_engine_that_never_starts_is_given_up(checkpoint: Path, tmp_path: Path) -> None:
    """Three in a row: what has never worked will not come right by itself, and the reason stays visible."""
    with Running(checkpoint, tmp_path, "--fatal", "retry") as running:
        running.listening()
        status, health = running.until(lambda: (found := running.health())[1]["status"] == "failed" and found)
        assert status == 503 and health["engine_restarts"] == 2
        assert "3 engines ended" in health["reason"] and "truncated" in health["reason"]
        answer = running.client.post("/v1/completions", json={"prompt": "a"})
        assert answer.status_code == 503 and "truncated" in answer.json()["error"]["message"]
        assert running.log().count("engine started as process") == 3


def test_an_engine_that_has_served_is_replaced_for_ever(checkpoint: Path, tmp_path: Path) -> None:
    """Three losses in a row, the last two before anything was served, and a fourth engine all the same."""
    with Running(checkpoint, tmp_path, "--load-s", "0.2", **QUICK) as running:
        running.ready()
        running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
        for lost in range(3):
            started = running.log().count("engine started as process")
            os.kill(running.started_pid(), signal.SIGKILL)
            running.until(lambda: running.log().count("engine started as process") > started)  # noqa: B023
            assert running.health()[1]["engine_restarts"] == lost + 1
        assert running.ready().client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_one_failed_request_fails_alone(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--error-after", "4") as running:
        running.ready()
        answer = running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 9})
        assert answer.status_code == 503 and answer.json()["error"]["message"] == "this request broke the step"
        events = stream_events(running, 1)
        assert json.loads(events[-2])["error"]["code"] == "engine_failed" and events[-1] == "[DONE]"
        assert running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3}).status_code == 200
        assert running.health()[1]["engine_restarts"] == 0


def test_overflow_found_after_loading(checkpoint: Path, tmp_path: Path) -> None:
    """While the engine loads nobody knows its window; the refusal is the same, only later."""
    with Running(checkpoint, tmp_path, "--load-s", "0.4") as running:
        running.listening()
        assert running.client.get("/v1/models/fake").json()["max_model_len"] is None
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "z" * 600}]}
        with ThreadPoolExecutor(2) as pool:
            whole = pool.submit(running.client.post, "/v1/chat/completions", json=body)
            stream = pool.submit(running.client.post, "/v1/chat/completions", json=body | {"stream": True})
        error = whole.result().json()["error"]
        assert whole.result().status_code == 400 and error["code"] == "context_length_exceeded" and error["param"] == "messages"
        events = stream.result().text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["error"] == error
