"""Two ranks compute token for token what one does, and whatever becomes of one of them is told, never waited for."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import torch
from tests.conftest import Tiny
from tests.e2e import service as services
from tests.e2e.forced import closing_bias, write_checkpoint
from tests.e2e.service import Service
from tests.tiny.recipes import RECIPES
from tests.waiting import PATIENCE_S

from tokenwell.engine.run.parallel import BACKENDS

DEVICE = "cuda" if torch.cuda.device_count() > 1 else "cpu"  # the engine gives each rank a card of its own
OVER = f"2 ranks over {BACKENDS[DEVICE]}"
FLAGS = (f"--device={DEVICE}", "--dtype=float32", "--threads=1", "--max-num-seqs=8", "--kv-cache-gib=0.01")
FAULTY = str(Path(__file__).with_name("faulty"))
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["plain", "Größe"]}, "days": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "days"],
    "additionalProperties": False,
}


def requests() -> list[tuple[str, dict[str, Any]]]:
    """What is asked of both: greedy, seeded, penalised, with log-probabilities, and bound to a grammar."""
    text = {"prompt": "The quick brown fox asks for the weather in Paris, and", "max_tokens": 24, "ignore_eos": True}
    chat = {"messages": [{"role": "user", "content": "What is the weather?"}], "max_tokens": 60, "seed": 5}
    schema = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    return [
        ("/v1/completions", {**text, "temperature": 0}),
        ("/v1/completions", {**text, "temperature": 1, "seed": 3, "top_p": 0.9}),
        ("/v1/completions", {**text, "seed": 4, "presence_penalty": 1.5, "frequency_penalty": 0.5, "logit_bias": {"70": 3}}),
        ("/v1/completions", {**text, "prompt": text["prompt"] + " more", "temperature": 0, "echo": True, "logprobs": 2}),
        ("/v1/chat/completions", {**chat, "response_format": schema}),
    ]


def answers(service: Service, asked: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The choices of each answer, all asked at once; log-probabilities are not compared to the last digit."""
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda one: service.post(*one), asked))
    assert all(status == 200 for status, _ in found), found
    choices = [body["choices"] for _, body in found]
    for [choice] in choices:
        if choice.get("logprobs") and "tokens" in choice["logprobs"]:
            choice["logprobs"] = choice["logprobs"]["tokens"]
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            del call["id"]
    return choices


def both(folder: Path, logs: Path, asked: list[tuple[str, dict[str, Any]]], *flags: str) -> tuple[list[Any], list[Any]]:
    """The answers of one rank, and those of two."""
    with ExitStack() as stack:
        running = []
        for count in (1, 2):  # both start at the same time
            running.append(services.start(folder, logs / f"tp{count}.log", *FLAGS, f"--tp={count}", *flags))
            stack.callback(services.stop, running[-1])
        for service in running:
            services.wait_healthy(service)
        assert f"tensor parallel: {OVER} (self-test passed" in running[1].log.read_text()
        one, two = (answers(service, asked) for service in running)
    return one, two


@pytest.mark.parametrize("name", ["qwen3", "gpt-oss-wide"])  # others, as threads: engine/run/test_parallel.py
def test_two_ranks_say_what_one_says(tiny: Tiny, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = RECIPES["gpt-oss-mxfp4"]  # whose experts are one block of 32 numbers wide, which cannot be shared
    wide = {**narrow.config, "intermediate_size": 64}
    monkeypatch.setitem(RECIPES, "gpt-oss-wide", dataclasses.replace(narrow, config=wide))
    one, two = both(tiny(name), tmp_path, requests())
    assert one == two
    assert json.loads(two[-1][0]["message"]["content"]).keys() == {"kind", "days"}


def test_a_forced_call(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    body = {
        "messages": [{"role": "user", "content": "Call it."}],
        "tools": [{"type": "function", "function": {"name": "probe", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "logit_bias": closing_bias(folder),
        "presence_penalty": 0.5,
        "max_tokens": 300,
    }
    asked = [("/v1/chat/completions", {**body, "seed": seed, "temperature": 1}) for seed in range(4)]
    one, two = both(folder, tmp_path, asked, "--chat-format=hermes")
    assert one == two
    for [choice] in two:
        [call] = choice["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]).keys() == {"kind", "days"}


def ranks_of(engine: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(engine).children() if "--rank" in child.cmdline()]


def test_the_death_of_a_rank(tiny: Tiny, tmp_path: Path) -> None:
    """Its streams end with the rank's name, the next engine serves, and nothing outlives a gateway that is killed."""
    with services.serve(tiny("qwen3"), tmp_path / "log", *FLAGS, "--tp=2") as service:
        engine = service.engine_pid()
        [rank] = ranks_of(engine)
        body = {"prompt": "a", "max_tokens": 900, "ignore_eos": True, "stream": True}
        with httpx2.stream("POST", service.url + "/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = filter(None, answer.iter_lines())
            next(lines)
            rank.send_signal(signal.SIGKILL)
            *_, error, done = lines
        assert "rank 1 was killed by SIGKILL" in error and done == "data: [DONE]"
        service.wait_until("the next engine", lambda: service.health()[0] == 200)
        assert service.health()[1]["engine_restarts"] == 1
        assert service.post("/v1/completions", {**body, "max_tokens": 3, "stream": False})[0] == 200
        engine = service.engine_pid()
        left = [psutil.Process(engine), *ranks_of(engine)]
        service.process.kill()
        service.process.wait()
        _, alive = psutil.wait_procs(left, 10)
        assert not alive


@pytest.mark.parametrize(
    ("fault", "told"),
    [("wrong", "rank 1: the sum of 1 numbers in float32 came out wrong"), ("hang", "rank 1 hung: it did not pass within 1.5 s")],
    ids=["wrong", "hang"],
)
def test_a_self_test_that_fails(tiny: Tiny, tmp_path: Path, fault: str, told: str) -> None:
    """Each card serves alone then, and the reason is told."""
    environment = {"PYTHONPATH": os.pathsep.join([FAULTY, *filter(None, [os.environ.get("PYTHONPATH")])]), "RANK_FAULT": fault}
    with services.serve(tiny("qwen3"), tmp_path / "log", *FLAGS, "--tp=2", environment=environment) as service:
        service.wait_until("two replicas", lambda: len(service.health()[1].get("replicas", ())) == 2)
        assert service.post("/v1/completions", {"prompt": "a", "max_tokens": 3})[0] == 200
        log = service.log.read_text()
        assert f"tensor parallel: off, 2 replicas instead (tensor parallelism of {OVER} failed its self-test" in log
        assert told in log


def test_a_self_test_that_fails_where_nothing_else_fits(tiny: Tiny, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": os.pathsep.join([FAULTY, *filter(None, [os.environ.get("PYTHONPATH")])])}
    environment["RANK_FAULT"] = "wrong alone"
    service = services.start(tiny("qwen3"), tmp_path / "log", *FLAGS, "--tp=2", environment=environment)
    try:
        service.wait_until("HTTP", lambda: "engine cannot serve" in service.log.read_text())
        status, health = service.health()
        assert status == 503 and health["status"] == "failed" and "The model does not fit one card" in health["reason"]
    finally:
        services.stop(service)
