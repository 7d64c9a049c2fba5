"""What surrounds every endpoint: ids, models, health, metrics, keys, keep-alives, and clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from tests.fakes.running import Running

from tokenwell.api.auth import is_loopback, keys_for

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


def test_request_ids(gateway: Running) -> None:
    client = gateway.client
    fresh = {client.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(fresh) == 3
    assert client.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/health", headers={"x-request-id": "two words"}).headers["x-request-id"] != "two words"
    answer = client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "stream": True})
    assert answer.headers["x-request-id"].startswith("req_")


def test_models_tell_the_window_under_every_name(gateway: Running) -> None:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none") as sdk:
        [card] = sdk.models.list().data
        assert card.id == "fake" and sdk.models.retrieve("fake").id == "fake"
    told = gateway.client.get("/v1/models/fake").json()
    names = ("max_model_len", "context_length", "context_window", "max_context_length")
    assert [told[name] for name in names] == [512] * 4 and told["meta"]["n_ctx"] == 512 and told["owned_by"]


def test_a_model_may_be_called_by_name_folder_or_path(gateway: Running, checkpoint: Path) -> None:
    for name in ("fake", checkpoint.name, str(checkpoint), None, ""):
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        answer = gateway.client.post("/v1/completions", json=body)
        assert answer.status_code == 200 and answer.json()["model"] == (name or "fake")


def test_health_and_version(gateway: Running) -> None:
    status, health = gateway.health()
    assert status == 200 and health["status"] == "ok" and health["heartbeat_age_s"] < 5
    assert gateway.client.get("/version").json()["version"]


def test_metrics(gateway: Running) -> None:
    before = gateway.metric("tokenwell_generation_tokens_total")
    gateway.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 5})
    assert gateway.metric("tokenwell_generation_tokens_total") == before + 5
    assert gateway.metric("tokenwell_engine_up") == 1
    assert gateway.metric('tokenwell_kv_pages{state="cached"}') == 10
    assert gateway.metric('tokenwell_requests_total{route="/v1/completions",status="200"}') >= 1
    text = gateway.client.get("/metrics").text
    for name in (
        "requests_running", "requests_waiting", "ttft_seconds_bucket", "tpot_seconds_bucket", "e2e_seconds_bucket",
        "prompt_tokens_total", "cached_prompt_tokens_total", "kv_usage_ratio", "preemptions_total", "engine_restarts_total",
        "engine_step_seconds_total",
    ):  # fmt: skip
        assert f"tokenwell_{name}" in text


def test_one_log_line_a_request(gateway: Running) -> None:
    gateway.client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 3}, headers={"x-request-id": "line-1"})
    [line] = gateway.until(lambda: [line for line in gateway.log().splitlines() if "line-1" in line])
    for word in ("status=200", "completion=3", "finish=length", "ttft_ms=", "tpot_ms=", "prompt=", "cached="):
        assert word in line


# ------------------------------------------------------------------ keys


def test_which_addresses_need_a_key() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"):
        assert is_loopback(host) and keys_for(host, []) == ([], None)
        assert keys_for(host, ["k"]) == (["k"], None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        keys, generated = keys_for(host, [])
        assert not is_loopback(host) and generated is not None and keys == [generated] and len(generated) > 30
        assert keys_for(host, ["k"]) == (["k"], None)
    assert keys_for("0.0.0.0", [])[1] != keys_for("0.0.0.0", [])[1]


def test_keys_are_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, server={"api_key": ["first", "sécond"]}) as running:
        running.ready()
        client = running.client
        good = [{"authorization": "Bearer first"}, {"authorization": "bearer  first"}, {"x-api-key": "first"}]
        good += [{"authorization": "Bearer sécond".encode()}, {"authorization": "Bearer wrong", "x-api-key": "first"}]
        bad: list[Any] = [{}, {"authorization": "first"}, {"authorization": "Basic first"}, {"x-api-key": "firs"}]
        bad += [{"authorization": "Bearer"}, {"x-api-key": ""}, {"authorization": b"Bearer \xff"}]
        for headers in good:
            assert client.get("/v1/models", headers=headers).status_code == 200, headers
        for headers in bad:
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", headers
            assert client.get("/nowhere", headers=headers).status_code == 401
            assert client.get("/metrics", headers=headers).status_code == 401
        assert client.get("/health").status_code == 200 and client.head("/").status_code == 200
        with (
            openai.OpenAI(base_url=running.url + "/v1", api_key="wrong", max_retries=0) as sdk,
            pytest.raises(openai.AuthenticationError),
        ):
            sdk.models.list()


def test_other_hosts_get_a_key_that_is_printed(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, server={"host": "0.0.0.0"}) as running:
        running.ready()
        assert running.client.get("/v1/models").status_code == 401
        key = next(line.split()[2] for line in running.log().splitlines() if "API key" in line)
        assert running.client.get("/v1/models", headers={"x-api-key": key}).status_code == 200


# ------------------------------------------------------------------ time


def test_keep_alives_while_the_prompt_is_computed(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--prefill-s", "2.4", server={"keep_alive_s": 0.4}) as running:
        running.ready()
        body = {"messages": HELLO, "max_tokens": 2, "stream": True}
        with running.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert running.metric("tokenwell_generation_tokens_total") == 0  # headers at once
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        chunks = [json.loads(line) for line in lines[:-1]]
        quiet = [chunk for chunk in chunks if not chunk["choices"] and "usage" not in chunk]
        assert 3 <= len(quiet) <= 8
        assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in quiet} == {
            (chunks[0]["id"], "chat.completion.chunk", "fake")
        }


def test_the_sdk_survives_keep_alives_while_loading(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--load-s", "0.6", server={"keep_alive_s": 0.05}) as running:
        running.listening()
        assert running.health()[1]["status"] == "loading"
        with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as sdk:
            stream = sdk.chat.completions.create(model="fake", messages=HELLO, max_tokens=4, stream=True)
            assert len("".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)) == 4


# ------------------------------------------------------------------ clients that leave


@pytest.fixture(scope="module")
def slow(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway whose engine takes 0.4 s to the first token and 50 ms to each other one."""
    with Running(checkpoint, tmp_path_factory.mktemp("slow"), "--prefill-s", "0.4", "--rate", "20") as running:
        yield running.ready()


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["prefill", "decode"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_leaving_aborts(slow: Running, path: str, stream: bool, when: str) -> None:
    aborted, taken = len(slow.diary("abort")), len(slow.diary("generate"))
    body = {"messages": HELLO, "prompt": "hello", "max_tokens": 300, "n": 2, "stream": stream, "ignore_eos": True}
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", slow.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
    await asyncio.to_thread(slow.until, lambda: len(slow.diary("generate")) == taken + 2)
    if when == "decode":
        if stream:
            while b'"index":1' not in await reader.readline():
                pass
        await asyncio.to_thread(slow.until, lambda: slow.metric("tokenwell_engine_steps_total") > 0)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    await asyncio.to_thread(slow.until, lambda: len(slow.diary("abort")) == aborted + 2, 2.0)
    for gauge in ("requests_waiting", "requests_running", "kv_usage_ratio"):
        await asyncio.to_thread(slow.until, lambda gauge=gauge: slow.metric(f"tokenwell_{gauge}") == 0)


def test_leaving_while_the_engine_loads(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--load-s", "0.8") as running:
        running.listening()
        with pytest.raises(httpx2.ReadTimeout):
            running.client.post("/v1/completions", json={"prompt": "a"}, timeout=0.2)
        running.until(lambda: running.metric("tokenwell_requests_waiting") == 0)
        running.ready()
        assert running.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
        assert len(running.diary("generate")) == 1


def test_a_body_that_never_ends_holds_nothing_up(gateway: Running) -> None:
    with httpx2.Client(base_url=gateway.url, timeout=0.3) as client:

        def half() -> Any:
            yield b'{"prompt": "a"'
            raise ConnectionError("the client dies")

        with pytest.raises(ConnectionError):
            client.post("/v1/completions", content=half())
    assert gateway.client.get("/health").status_code == 200
    assert "Traceback" not in gateway.log()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
