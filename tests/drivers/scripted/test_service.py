"""`tokenwell serve scripted` as people run it: real processes, real sockets, every switch."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.service import Service, serve
from tests.waiting import PATIENCE_S

SCRIPTED = Path("scripted")
LONG = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, cache: dict[str, str]) -> Iterator[Service]:
    with serve(SCRIPTED, tmp_path_factory.mktemp("scripted") / "log", environment=cache) as running:
        yield running


def _ask(service: Service, text: str, **fields: Any) -> tuple[int, Any]:
    return service.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})


def _content(answer: tuple[int, Any]) -> str:
    status, body = answer
    assert status == 200, body
    content: str = body["choices"][0]["message"]["content"]
    return content


def _stream(service: Service, text: str) -> list[Any]:
    """The events of a stream, whatever its end."""
    body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True}).encode()
    request = urllib.request.Request(service.url + "/v1/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        lines = [line.decode().strip() for line in response]
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def _text(events: list[Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event.get("choices", []))


def test_it_says_what_it_is_told(service: Service) -> None:
    assert _content(_ask(service, f"please [[say {LONG}]]")) == LONG
    assert _content(_ask(service, "hello")) == "This is a scripted answer."
    assert _text(_stream(service, f"[[say {LONG}]]")) == LONG


def test_the_name_and_the_window(service: Service) -> None:
    [model] = json.loads(service.get("/v1/models")[1])["data"]
    assert (model["id"], model["max_model_len"]) == ("scripted", 1_048_576)


def test_a_large_request_fits(service: Service) -> None:
    status, body = _ask(service, "word " * 100_000 + "[[say ok]]")
    assert (status, body["choices"][0]["message"]["content"]) == (200, "ok")
    assert body["usage"]["prompt_tokens"] > 100_000


def test_the_length_limit_cuts(service: Service) -> None:
    status, body = _ask(service, f"[[say {LONG}]]", max_tokens=3)
    assert (status, body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == (200, "length", 3)


def test_several_answers_and_logprobs(service: Service) -> None:
    status, body = _ask(service, "[[say ab]]", n=3, logprobs=True, top_logprobs=2)
    assert status == 200
    assert [choice["message"]["content"] for choice in body["choices"]] == ["ab"] * 3
    entries = body["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries).startswith("ab")
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


def test_a_request_that_ignores_the_end_gets_as_much_as_it_wants(service: Service) -> None:
    status, body = _ask(service, "[[say ab]]", ignore_eos=True, max_tokens=40)
    assert (status, body["usage"]["completion_tokens"]) == (200, 40)


def test_a_raw_completion_is_obeyed_too(service: Service) -> None:
    status, body = service.post("/v1/completions", {"prompt": "[[say raw]]", "max_tokens": 20})
    assert (status, body["choices"][0]["text"]) == (200, "raw")


def test_a_repeated_beginning_is_cached(service: Service) -> None:
    text = "a beginning that is long enough for some pages of the cache, and that nobody else sends. " * 5
    first = _ask(service, text)[1]["usage"]
    again = _ask(service, text + "more")[1]["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] < 20
    assert 0.8 < again["prompt_tokens_details"]["cached_tokens"] / first["prompt_tokens"] <= 1
    assert again["prompt_tokens_details"]["cached_tokens"] < again["prompt_tokens"]


def test_the_pace_is_kept(tmp_path: Path, cache: dict[str, str]) -> None:
    with serve(SCRIPTED, tmp_path / "log", "--ttft-ms=150", "--tpot-ms=10", environment=cache) as paced:
        began = time.monotonic()
        status, body = _ask(paced, f"[[say {LONG}]]")
        seconds = time.monotonic() - began
    tokens = body["usage"]["completion_tokens"]
    assert (status, tokens > 10) == (200, True)
    assert 0.15 + 0.01 * (tokens - 1) <= seconds < 15 + 0.01 * tokens


def test_a_death_ends_the_stream_with_an_error_and_the_next_answer_comes(tmp_path: Path, cache: dict[str, str]) -> None:
    with serve(SCRIPTED, tmp_path / "log", "--die-after=4", "--fault-once", "--tpot-ms=5", environment=cache) as mortal:
        events = _stream(mortal, f"[[say {LONG}]]")
        assert "error" in events[-1]
        assert _text(events)
        assert LONG.startswith(_text(events))
        mortal.wait_until("a new engine", lambda: mortal.health()[0] == 200)
        assert _content(_ask(mortal, f"[[say {LONG}]]")) == LONG
        assert "dying, as asked" in mortal.log.read_text()


def test_short_answers_live_where_long_ones_die_each_time(tmp_path: Path, cache: dict[str, str]) -> None:
    with serve(SCRIPTED, tmp_path / "log", "--die-after=4", environment=cache) as mortal:
        assert _content(_ask(mortal, "[[say a]]")) == "a"
        for _ in range(2):
            mortal.wait_until("an engine", lambda: mortal.health()[0] == 200)
            assert "error" in _stream(mortal, f"[[say {LONG}]]")[-1]


def test_a_stall_is_seen_and_ended(tmp_path: Path, cache: dict[str, str]) -> None:
    limits = cache | {"TOKENWELL_ENGINE_STEP_TIMEOUT_S": "0.6"}
    with serve(SCRIPTED, tmp_path / "log", "--stall-after=4", "--tpot-ms=1", environment=limits) as stuck:
        events = _stream(stuck, f"[[say {LONG}]]")
        assert "in one step" in events[-1]["error"]["message"]


def test_garbage_is_an_answer_like_any_other(tmp_path: Path, cache: dict[str, str]) -> None:
    with serve(SCRIPTED, tmp_path / "log", "--garbage-after=3", "--fault-once", environment=cache) as broken:
        status, body = _ask(broken, f"[[say {LONG}]]", seed=5)
        assert status == 200
        assert body["choices"][0]["message"]["content"] != LONG
        assert _content(_ask(broken, f"[[say {LONG}]]")) == LONG
