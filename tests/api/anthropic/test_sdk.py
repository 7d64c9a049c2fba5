"""The unmodified anthropic SDK against a gateway whose engine says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from tests.fakes.running import Running

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
TOOL: Any = {"name": "read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
SCRIPT = (
    "<think>\nWhich file?\n</think>\n\nI will look."
    '\n<tool_call>\n{"name": "read", "arguments": {"path": "a \\"b\\" ü"}}\n</tool_call>'
    '\n<tool_call>\n{"name": "read", "arguments": {}}\n</tool_call>'
)


@pytest.fixture(scope="module")
def agent(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Every answer thinks, speaks and calls twice."""
    with Running(checkpoint, tmp_path_factory.mktemp("agent"), "--script", SCRIPT, model={"chat_format": "hermes"}) as running:
        yield running.ready()


def sdk_of(running: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0)


def test_text_streamed_and_not(gateway: Running) -> None:
    fields: Any = {"model": "fake", "max_tokens": 20, "messages": HELLO, "extra_body": {"seed": 3}}
    with sdk_of(gateway) as sdk:
        whole = sdk.messages.create(**fields)
        with sdk.messages.stream(**fields) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        count = sdk.messages.count_tokens(model="fake", messages=HELLO)
    assert whole.id.startswith("msg_") and whole.type == "message" and whole.role == "assistant" and whole.model == "fake"
    [block] = whole.content
    assert block.type == "text" and block.text == text and final.content[0].model_dump()["text"] == text
    assert whole.stop_reason == final.stop_reason == "max_tokens" and whole.stop_sequence is None
    assert whole.usage == final.usage
    usage = whole.usage
    assert usage.output_tokens == 20 and usage.cache_creation_input_tokens == 0
    assert usage.cache_read_input_tokens == count.input_tokens // 2
    assert usage.input_tokens + usage.cache_read_input_tokens == count.input_tokens
    assert whole._request_id and whole._request_id.startswith("req_")


@pytest.mark.anyio
async def test_async(gateway: Running) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="none", max_retries=0) as sdk:
        async with sdk.messages.stream(model="fake", max_tokens=5, messages=HELLO) as stream:
            kinds = [event.type async for event in stream]
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
        [model] = (await sdk.models.list()).data
        assert model.id == model.display_name == "fake" and model.type == "model" and model.created_at.year > 2000
        assert (await sdk.models.retrieve("fake")).id == "fake"


def test_stop_sequences(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--script", "one two END three") as running:
        running.ready()
        with sdk_of(running) as sdk:
            fields: Any = {"model": "fake", "max_tokens": 50, "messages": HELLO}
            whole = sdk.messages.create(stop_sequences=["END"], **fields)
            assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "END")
            assert whole.content[0].model_dump()["text"] == "one two "
            with sdk.messages.stream(stop_sequences=["END"], **fields) as stream:
                final = stream.get_final_message()
            assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "END")
            assert sdk.messages.create(**fields).stop_reason == "end_turn"


def test_thinking_and_tools(agent: Running) -> None:
    fields: Any = {"model": "fake", "max_tokens": 400, "messages": HELLO, "tools": [TOOL], "thinking": {"type": "adaptive"}}
    with sdk_of(agent) as sdk:
        whole = sdk.messages.create(**fields)
        with sdk.messages.stream(**fields) as stream:
            final = stream.get_final_message()
        thinking, text, *calls = whole.content
        assert thinking.type == "thinking" and "Which file?" in thinking.thinking and thinking.signature
        assert text.type == "text" and text.text.strip() == "I will look."
        assert [(call.type, call.model_dump()["input"]) for call in calls] == [
            ("tool_use", {"path": 'a "b" ü'}),
            ("tool_use", {}),
        ]
        assert whole.stop_reason == final.stop_reason == "tool_use"

        def without_ids(message: Any) -> list[dict[str, Any]]:
            return [block.model_dump(exclude={"id", "parsed_output"}) for block in message.content]

        assert without_ids(whole) == without_ids(final)
        ids = [call.model_dump()["id"] for call in calls]
        assert len(set(ids)) == 2 and all(id.startswith("toolu_") for id in ids)
        results: Any = [{"type": "tool_result", "tool_use_id": id, "content": "done"} for id in ids]
        fields["messages"] = [*HELLO, {"role": "assistant", "content": whole.content}, {"role": "user", "content": results}]
        assert sdk.messages.create(**fields).stop_reason == "tool_use"


def test_typed_errors(gateway: Running, checkpoint: Path, tmp_path: Path) -> None:
    with sdk_of(gateway) as sdk:
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            sdk.messages.create(model="fake", max_tokens=5, messages=[{"role": "user", "content": "hello " * 2000}])
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            sdk.messages.create(model="claude", max_tokens=5, messages=HELLO)
        with pytest.raises(anthropic.NotFoundError):
            sdk.models.retrieve("claude")
    server = {"max_queue": 0, "api_key": ["right"]}
    with Running(checkpoint, tmp_path, "--prefill-s", "5", "--max-num-seqs", "1", server=server) as running:
        running.ready()
        with (
            anthropic.Anthropic(base_url=running.url, api_key="wrong", max_retries=0) as sdk,
            pytest.raises(anthropic.AuthenticationError),
        ):
            sdk.messages.create(model="fake", max_tokens=5, messages=HELLO)
        with (
            anthropic.Anthropic(base_url=running.url, api_key="right", max_retries=0) as sdk,
            sdk.messages.create(model="fake", max_tokens=5, messages=HELLO, stream=True) as first,
        ):
            assert next(iter(first)).type == "message_start"  # it holds the only place now
            with pytest.raises(anthropic.RateLimitError) as refused:
                sdk.messages.create(model="fake", max_tokens=5, messages=HELLO)
            assert refused.value.response.headers["retry-after"]


def test_pings_while_waiting(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--prefill-s", "0.6", server={"keep_alive_s": 0.1}) as running:
        running.ready()
        body = {"messages": HELLO, "max_tokens": 2, "stream": True}
        with running.client.stream("POST", "/v1/messages?beta=true", json=body) as answer:
            lines = [line for line in answer.iter_lines() if line]
        kinds = [line.removeprefix("event: ") for line in lines[::2]]
        assert kinds == [json.loads(line.removeprefix("data: "))["type"] for line in lines[1::2]]
        assert kinds[:2] == ["message_start", "ping"] and 3 <= kinds.count("ping") <= 8
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_dying_engine_ends_the_stream_with_an_error(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, "--error-after", "4") as running:
        running.ready()
        body = {"messages": HELLO, "max_tokens": 20, "stream": True}
        last = running.client.post("/v1/messages", json=body).text.strip().split("\n\n")[-1]
        head, data = last.split("\n")
        told = json.loads(data.removeprefix("data: "))
        assert head == "event: error" and told["type"] == "error" and told["error"]["type"] == "overloaded_error"
        with sdk_of(running) as sdk:
            with (
                pytest.raises(anthropic.APIStatusError),
                sdk.messages.stream(model="fake", max_tokens=20, messages=HELLO) as stream,
            ):
                stream.get_final_message()
            with pytest.raises(anthropic.InternalServerError):
                sdk.messages.create(model="fake", max_tokens=20, messages=HELLO)


def test_what_is_not_honoured_is_told(gateway: Running) -> None:
    body = {"messages": HELLO, "max_tokens": 2, "thinking": {"type": "enabled", "budget_tokens": 1024}, "n": 3}
    headers = {"anthropic-beta": "a,b", "anthropic-version": "2023-06-01"}
    answer = gateway.client.post("/v1/messages?beta=true", json=body | {"unknown": {}}, headers=headers)
    assert answer.status_code == 200 and "budget_tokens" in answer.headers["x-tokenwell-warning"]
    assert len(answer.json()["content"]) == 1 and answer.json()["usage"]["output_tokens"] == 2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
