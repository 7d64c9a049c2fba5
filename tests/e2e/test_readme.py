"""What the README promises to somebody who just started the service, without a model of their own."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.service import Service, serve
from tests.waiting import PATIENCE_S

import tokenwell

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The bundled model, as `make serve` gives it."""
    with serve(None, tmp_path_factory.mktemp("readme") / "service.log", "--threads=1") as running:
        yield running


def curl_line() -> list[str]:
    """The words of the README's curl command."""
    [command] = re.findall(r"^curl (?:.*\\\n)*.*$", README, re.MULTILINE)
    return shlex.split(command.replace("\\\n", " "))[1:]


def test_the_curl_line(service: Service) -> None:
    url, *options = curl_line()
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert set(given) == {"-H", "-d"}
    name, value = given["-H"].split(": ")
    assert url.startswith("http://127.0.0.1:8000/")  # the default address
    request = urllib.request.Request(
        url.replace("http://127.0.0.1:8000", service.url), data=given["-d"].encode(), headers={name: value}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        answer = json.loads(response.read())
    assert answer["model"] == json.loads(given["-d"])["model"]
    assert answer["choices"][0]["message"]["content"]
    assert 1 <= answer["usage"]["completion_tokens"] <= json.loads(given["-d"])["max_tokens"]


def test_the_commands_have_the_flags_that_it_shows() -> None:
    shown = re.findall(r"^\.venv/bin/tokenwell (chat|agent|check)(.*)$", README, re.MULTILINE)
    assert {name for name, _ in shown} == {"chat", "agent", "check"}
    for name, arguments in shown:
        if flags := re.findall(r"--[a-z-]+", arguments):
            command = [sys.executable, "-m", "tokenwell", name, "--help"]
            told = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "200"}).stdout
            assert [flag for flag in flags if f" {flag} " not in told] == []


def test_the_agents_work_is_shown_as_it_is(service: Service, tmp_path: Path) -> None:
    """The transcript: every call, every result and every file, but for dates; its sentences may differ on another processor."""
    [transcript] = re.findall(r"^```\n(\$ mkdir notes\n.*?)^```", README, re.MULTILINE | re.DOTALL)
    for step in transcript.split("$ ")[1:]:
        command, _, shown = step.partition("\n")
        if words := re.match(r"\.venv/bin/tokenwell (agent .*)", command):
            command = f"{sys.executable} -m tokenwell {words[1]} --url {service.url}"
        done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        assert _work(done.stdout, bool(words)) == _work(shown, bool(words)), command


def _work(text: str, agent: bool) -> list[str]:
    lines = re.sub(r"\d{4}-?\d\d-?\d\d", "", text).splitlines()
    return [line for line in lines if line.startswith(("> ", "< ", "  {"))] if agent else lines


def test_the_routes_are_there(service: Service) -> None:
    [sentence] = re.findall(r"^There are (.*?)\.$", README, re.MULTILINE | re.DOTALL)
    routes = re.findall(r"`(/\S+)`", sentence)
    assert len(routes) >= 8
    for route in routes:
        status, _ = service.get(route)
        assert status in (200, 405), route  # 405: it takes POST only


def test_models_version_health_and_metrics(service: Service) -> None:
    [model] = json.loads(service.get("/v1/models")[1])["data"]
    assert model["id"] == "tokenwell-mini" and model["max_model_len"] > 1000
    assert json.loads(service.get("/version")[1]) == {"version": tokenwell.__version__}
    status, health = service.health()
    assert status == 200 and health["status"] == "ok"
    service.post("/v1/completions", {"prompt": "a", "max_tokens": 3, "ignore_eos": True})
    assert service.metric("tokenwell_generation_tokens_total") >= 3


def test_the_start_message(service: Service) -> None:
    """Where, what, how much, and every automatic choice with its reason."""
    text = service.log.read_text()
    assert text.count("Tokenwell is ready at") == 1 and f"Tokenwell is ready at {service.url}/v1" in text
    for words in ("model     tokenwell-mini", "window    ", "capacity  ", "  device: cpu", "  dtype: ", "  kv cache: "):
        assert words in text
