"""Chat completions through the unmodified openai SDK and raw sockets, against the fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.fakes.running import Running

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture
def sdk(gateway: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def post(gateway: Running, **fields: Any) -> Any:
    answer = gateway.client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 8} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(gateway: Running, **fields: Any) -> list[Any]:
    """Every data event of a stream but the closing [DONE]."""
    body = {"messages": HELLO, "max_tokens": 8, "stream": True} | fields
    answer = gateway.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events.pop() == "" and events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_plain_answer(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="fake", messages=HELLO, max_tokens=8, seed=1)
    assert answer.object == "chat.completion" and answer.model == "fake"
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.finish_reason == "length"
    assert choice.message.content is not None and len(choice.message.content) == 8
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens // 2


def test_stream_equals_plain_answer(sdk: openai.OpenAI) -> None:
    whole = sdk.chat.completions.create(model="fake", messages=HELLO, max_tokens=20, seed=7, n=2)
    texts, finishes, usages = ["", ""], ["", ""], []
    for chunk in sdk.chat.completions.create(model="fake", messages=HELLO, max_tokens=20, seed=7, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] += choice.finish_reason or ""
        if chunk.usage is not None:
            usages.append(chunk.usage)
    assert texts == [choice.message.content for choice in whole.choices]
    assert texts[0] != texts[1]
    assert finishes == ["length", "length"]
    assert usages == [whole.usage]
    assert whole.usage is not None and whole.usage.completion_tokens == 40


def test_stream_shape(gateway: Running) -> None:
    first, *middle, finish, usage = chunks(gateway)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in middle)
    assert finish["choices"][0]["delta"] == {} and finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 8
    same = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in [first, *middle, finish, usage]}
    assert len(same) == 1 and next(iter(same))[1] == "chat.completion.chunk"


def test_usage_in_every_chunk_when_asked(gateway: Running) -> None:
    found = chunks(gateway, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [chunk["usage"]["completion_tokens"] for chunk in found][-1] == 8
    assert [chunk["usage"]["completion_tokens"] for chunk in found] == sorted(
        chunk["usage"]["completion_tokens"] for chunk in found
    )
    found = chunks(gateway, stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in found[:-1]] == [None] * (len(found) - 1)


def test_seed_decides(gateway: Running) -> None:
    def text(**fields: Any) -> str:
        content: str = post(gateway, **fields)["choices"][0]["message"]["content"]
        return content

    assert text(seed=3) == text(seed=3) != text(seed=4)
    assert text(seed=-5) == text(seed=-5)
    assert len({text() for _ in range(8)}) > 1


def test_first_choice_uses_the_seed_itself(gateway: Running) -> None:
    one = post(gateway, seed=9)["choices"][0]["message"]
    two = post(gateway, seed=9, n=3)["choices"][0]["message"]
    assert one == two


def test_logprobs(sdk: openai.OpenAI) -> None:
    options: Any = {"model": "fake", "messages": HELLO, "max_tokens": 6, "seed": 2, "logprobs": True, "top_logprobs": 3}
    whole = sdk.chat.completions.create(**options).choices[0]
    assert whole.logprobs is not None and whole.logprobs.content is not None
    assert "".join(entry.token for entry in whole.logprobs.content) == whole.message.content
    for entry in whole.logprobs.content:
        assert entry.bytes == list(entry.token.encode())
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == entry.logprob <= 0
    streamed = []
    for chunk in sdk.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            streamed += (choice.logprobs.content or []) if choice.logprobs else []
    assert streamed == whole.logprobs.content


def test_token_ids_on_request(gateway: Running) -> None:
    whole = post(gateway, seed=5, return_token_ids=True)
    [choice] = whole["choices"]
    assert len(choice["token_ids"]) == 8
    assert choice["prompt_token_ids"] == whole["prompt_token_ids"]
    assert len(whole["prompt_token_ids"]) == whole["usage"]["prompt_tokens"]
    found = chunks(gateway, seed=5, return_token_ids=True)
    assert found[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    streamed = [token for chunk in found for c in chunk["choices"] for token in c.get("token_ids", ())]
    assert streamed == choice["token_ids"]


def test_max_tokens_names_and_clamp(gateway: Running) -> None:
    assert post(gateway, max_completion_tokens=3)["usage"]["completion_tokens"] == 3
    huge = post(gateway, max_tokens=10**9)
    assert huge["usage"]["total_tokens"] == 512 and huge["choices"][0]["finish_reason"] == "length"
    assert post(gateway, max_tokens=None)["usage"]["total_tokens"] == 512


def test_overflow_says_the_numbers(gateway: Running) -> None:
    messages = [{"role": "user", "content": "z" * 600}]
    for stream in (False, True):
        answer = gateway.client.post("/v1/chat/completions", json={"messages": messages, "stream": stream})
        assert answer.status_code == 400
        count = gateway.client.post("/tokenize", json={"messages": messages}).json()["count"]
        assert answer.json()["error"] == {
            "message": f"This model's maximum context length is 512 tokens. However, your messages resulted in {count} tokens. "
            "Please reduce the length of the messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }


def test_messages_as_agents_send_them(gateway: Running) -> None:
    call = {"id": "call1", "type": "function", "function": {"name": "read", "arguments": '{"path":"a"}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "# Memory", "tool_call_id": "call1"},
        {"role": "assistant", "content": "", "function_call": {"name": "read", "arguments": {"path": "b"}}},
        {"role": "function", "name": "read", "content": "text"},
        {"role": "system", "content": "later"},
        {"role": "user", "content": None},
    ]
    tools = [
        {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}},
        {"type": "web_search"},
    ]
    with_tools = post(gateway, messages=messages, tools=tools, tool_choice="auto", max_tokens=2)
    without = post(gateway, messages=messages, tools=tools, tool_choice="none", max_tokens=2)
    assert with_tools["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]


def test_unknown_and_foreign_fields_are_ignored(gateway: Running) -> None:
    post(gateway, user="u", metadata={"a": "b"}, store=True, service_tier="auto", xyz=[1, {}], parallel_tool_calls=False)
    post(gateway, temperature=1, top_p=1, n=None, stop=None, tools=None, response_format={"type": "text"}, logit_bias={})


def test_half_an_emoji_is_mended(gateway: Running) -> None:
    body = rb'{"messages":[{"role":"user","content":"cut \ud83d here, whole \ud83d\ude42, escaped \\ud83d"}],"max_tokens":2}'
    assert gateway.client.post("/v1/chat/completions", content=body).status_code == 200


def test_continue_final_message_with_echo(gateway: Running) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "It is"}]
    fields: Any = {"messages": messages, "continue_final_message": True, "echo": True, "seed": 1}
    content = post(gateway, **fields)["choices"][0]["message"]["content"]
    assert content.startswith("It is") and len(content) == 5 + 8
    assert "".join(c["delta"].get("content", "") for chunk in chunks(gateway, **fields) for c in chunk["choices"]) == content


async def test_sixty_four_streams_at_once(gateway: Running) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:

        async def one(seed: int) -> str:
            text = ""
            stream = await client.chat.completions.create(model="fake", messages=HELLO, max_tokens=30, seed=seed, stream=True)
            async for chunk in stream:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
            return text

        streamed = await asyncio.gather(*(one(seed) for seed in range(64)))
        alone = [post(gateway, seed=seed, max_tokens=30)["choices"][0]["message"]["content"] for seed in range(64)]
    assert streamed == alone


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio
