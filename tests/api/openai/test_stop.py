"""What ends an answer: stop strings across tokens and bursts, stop tokens, and what is counted then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.running import Running

SCRIPT = "Hello there, 東京 🙂. The END of it, and then much more text that nobody should see."


@pytest.fixture(scope="module", params=[1, 5], ids=["token by token", "five at once"])
def scripted(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("scripted")
    with Running(checkpoint, folder, "--script", SCRIPT, "--rate", "800", "--burst", str(request.param)) as running:
        yield running.ready()


def post(scripted: Running, **fields: Any) -> Any:
    answer = scripted.client.post("/v1/completions", json={"prompt": "x", "max_tokens": 400} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream_text(scripted: Running, **fields: Any) -> str:
    body = {"prompt": "x", "max_tokens": 400, "stream": True} | fields
    events = scripted.client.post("/v1/completions", json=body).text.split("\n\n")[:-2]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("END", "Hello there, 東京 🙂. The "),
        (["nothing", " END of"], "Hello there, 東京 🙂. The"),
        ("🙂", "Hello there, 東京 "),
        ("H", ""),
        (None, SCRIPT),
    ],
)
def test_stop_strings(scripted: Running, stop: Any, text: str) -> None:
    answer = post(scripted, stop=stop)
    [choice] = answer["choices"]
    assert choice["text"] == text and choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == (stop if isinstance(stop, str) else " END of" if stop else None)
    assert stream_text(scripted, stop=stop) == text


def test_usage_ends_at_the_stop_string(scripted: Running) -> None:
    answer = post(scripted, stop="END", return_token_ids=True, logprobs=0)
    [choice] = answer["choices"]
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"]) == len(choice["logprobs"]["tokens"])
    told = scripted.client.post("/detokenize", json={"tokens": choice["token_ids"]}).json()["prompt"]
    assert "END".startswith(told.removeprefix("Hello there, 東京 🙂. The ")[:3]) and "nobody" not in told


def test_stop_string_aborts_the_engine(scripted: Running) -> None:
    before = len(scripted.diary("abort"))
    post(scripted, stop="END")
    scripted.until(lambda: len(scripted.diary("abort")) > before)


def test_include_stop(scripted: Running) -> None:
    [choice] = post(scripted, stop="END", include_stop_str_in_output=True)["choices"]
    assert choice["text"] == "Hello there, 東京 🙂. The END"


def test_stop_token_ids(scripted: Running) -> None:
    ids = scripted.client.post("/tokenize", json={"prompt": SCRIPT}).json()["tokens"]
    comma = scripted.client.post("/tokenize", json={"prompt": ","}).json()["tokens"]
    answer = post(scripted, stop_token_ids=comma, return_token_ids=True)
    [choice] = answer["choices"]
    assert choice["text"] == "Hello there" and choice["stop_reason"] == comma[0]
    assert choice["token_ids"] == ids[: ids.index(comma[0]) + 1]
    [choice] = post(scripted, stop_token_ids=comma, include_stop_str_in_output=True)["choices"]
    assert choice["text"] == "Hello there,"


def test_end_token_is_no_text_but_counts(scripted: Running) -> None:
    answer = post(scripted, return_token_ids=True, logprobs=0)
    [choice] = answer["choices"]
    assert choice["token_ids"][-1] == 2 and choice["text"] == SCRIPT and choice["stop_reason"] is None
    assert answer["usage"]["completion_tokens"] == len(choice["token_ids"]) == len(choice["logprobs"]["tokens"])


def test_ignore_eos_and_min_tokens(scripted: Running) -> None:
    count = post(scripted)["usage"]["completion_tokens"]
    assert post(scripted, ignore_eos=True)["usage"]["completion_tokens"] == 400
    assert post(scripted, min_tokens=count + 3)["usage"]["completion_tokens"] == count + 3
