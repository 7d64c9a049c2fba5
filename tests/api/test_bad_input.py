"""Whatever is sent, the answer is a clear 4xx that names what is wrong, and the service goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.running import Running
from tests.waiting import PATIENCE_S

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(autouse=True)
def still_fine(gateway: Running) -> Iterator[None]:
    """After each test here an ordinary request is answered."""
    yield
    assert gateway.client.post(CHAT, json={"messages": HELLO, "max_tokens": 1}).status_code == 200


def error_of(gateway: Running, path: str, body: Any, status: int = 400) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = gateway.client.post(path, content=content, timeout=PATIENCE_S)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b"   ", "empty"),
        (b"{", "not valid JSON"),
        (b'{"messages": [}', "not valid JSON"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"null", "object"),
        (b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', "UTF-8"),
        (b'{"messages":[{"role":"user","content":"a"}],"temperature":NaN}', "JSON"),
        (b'{"messages":[{"role":"user","content":"a"}],"temperature":Infinity}', "JSON"),
        (b'{"messages":[{"role":"user","content":"a"}],"temperature":1e999}', "range"),
        (b'{"x":' + b"[" * 100_000, "nested"),
        (b'{"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":' + b'{"a":' * 50_000, "nested"),
        (b"\x00\x01\x02", "JSON"),
    ],
)
def test_broken_bodies(gateway: Running, body: bytes, word: str) -> None:
    assert word in error_of(gateway, CHAT, body)["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [{"content": "no role"}]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1e300}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 10**30}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"n": 1.5}, "n"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 10**40}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop_token_ids": [400]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"logit_bias": {"400": 1}}, "logit_bias"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
        ({"logit_bias": {"9" * 50: 1}}, "logit_bias"),
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"boom": True}}, "messages"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ],
)
def test_bad_chat_fields(gateway: Running, fields: dict[str, Any], param: str) -> None:
    assert error_of(gateway, CHAT, {"messages": HELLO, "max_tokens": 4} | fields)["param"] == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [400]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": [[5, 400]]}, "prompt"),
        ({"prompt": [[-1]]}, "prompt[0][0]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": [True]}, "prompt[0]"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["a"] * 4097}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_bad_completion_fields(gateway: Running, fields: dict[str, Any], param: str) -> None:
    assert error_of(gateway, TEXT, {"prompt": "hello"} | fields)["param"] == param


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_bad_token_requests(gateway: Running, path: str) -> None:
    error_of(gateway, path, {})
    error_of(gateway, path, {"prompt": "a", "messages": HELLO, "tokens": [999]})
    error_of(gateway, path, {"prompt": "a", "model": "other", "tokens": []}, 404)


def test_missing_field_is_named(gateway: Running) -> None:
    assert "messages" in error_of(gateway, CHAT, {"model": "fake"})["message"]


def test_template_errors_do_not_read_as_overflow(gateway: Running) -> None:
    message = error_of(gateway, CHAT, {"messages": HELLO, "chat_template_kwargs": {"boom": True}})["message"]
    assert "boom was asked for" in message
    assert not any(word in message.lower() for word in ("exceed", "limit", "max", "too long", "context"))


def test_unknown_model_names_what_is_served(gateway: Running) -> None:
    for path, body in ((CHAT, {"messages": HELLO}), (TEXT, {"prompt": "a"})):
        error = error_of(gateway, path, body | {"model": "gpt-9"}, 404)
        assert error["code"] == "model_not_found" and "`gpt-9`" in error["message"] and "`fake`" in error["message"]
    assert gateway.client.get("/v1/models/gpt-9").status_code == 404


def test_ten_megabytes(gateway: Running) -> None:
    body = {"messages": [{"role": "user", "content": "lorem ipsum " * 870_000}]}
    assert error_of(gateway, CHAT, body)["code"] == "context_length_exceeded"


def test_too_large_a_body_is_not_read(gateway: Running) -> None:
    assert error_of(gateway, CHAT, b"x" * (17 * 2**20), 413)["code"] == "request_too_large"

    def endless() -> Iterator[bytes]:
        for _ in range(18):
            yield b" " * 2**20

    assert gateway.client.post(CHAT, content=endless()).status_code == 413


def test_routes_and_methods(gateway: Running) -> None:
    client = gateway.client
    for method, path, status in (
        ("GET", "/v2/none", 404),
        ("POST", "/v1/none", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("OPTIONS", CHAT, 405),
        ("POST", "/health", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status and answer.json()["error"]["message"] and answer.headers["x-request-id"]
    assert client.head("/").status_code == 200 and client.get("/").json()["service"] == "tokenwell"


def test_content_type_does_not_matter(gateway: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        body = json.dumps({"messages": HELLO, "max_tokens": 1})
        assert gateway.client.post(CHAT, content=body, headers={"content-type": kind}).status_code == 200
    assert gateway.client.post(CHAT, content=b"\xef\xbb\xbf" + body.encode()).status_code == 200
    twice = b'{"model":"other","model":"fake","max_tokens":1,"messages":[{"role":"user","content":"a"}]}'
    assert gateway.client.post(CHAT, content=twice).status_code == 200


# ------------------------------------------------------------------ anything at all

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "input_text", "image_url"])}, optional={"text": st.text(max_size=5)}
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "critic"])},
    optional={
        "content": st.none() | st.text(max_size=20) | st.lists(parts, max_size=2),
        "tool_calls": anything,
        "name": scalars,
        "reasoning": scalars,
        "tool_call_id": scalars,
    },
)
knobs = {
    "temperature": st.floats(0, 2) | scalars,
    "top_p": st.floats(0, 1) | scalars,
    "top_k": st.integers(-3, 500) | scalars,
    "min_p": scalars,
    "n": st.integers(1, 3) | scalars,
    "seed": scalars,
    "stop": st.text(max_size=2) | st.lists(st.text(max_size=2), max_size=3) | scalars,
    "stop_token_ids": st.lists(st.integers(-2, 410), max_size=3),
    "logit_bias": st.dictionaries(st.integers(-2, 410).map(str) | st.text(max_size=3), st.floats(-110, 110), max_size=3),
    "min_tokens": st.integers(0, 10),
    "stream": st.booleans(),
    "stream_options": anything,
    "response_format": anything,
    "presence_penalty": scalars,
    "repetition_penalty": scalars,
    "ignore_eos": scalars,
    "skip_special_tokens": st.booleans(),
    "include_stop_str_in_output": st.booleans(),
    "echo": st.booleans(),
    "return_token_ids": st.booleans(),
    "prompt_logprobs": st.integers(-1, 3) | scalars,
}
chats = st.fixed_dictionaries(
    {"messages": st.lists(messages, max_size=3) | anything, "max_tokens": st.integers(-1, 8)},
    optional={
        **knobs,
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(-1, 22),
        "tools": anything,
        "tool_choice": anything,
        "chat_template_kwargs": anything,
        "add_generation_prompt": st.booleans(),
        "continue_final_message": st.booleans(),
    },
)
prompts = st.text(max_size=10) | st.lists(st.integers(-1, 410), max_size=4) | st.lists(st.text(max_size=4), max_size=3) | anything
texts = st.fixed_dictionaries(
    {"prompt": prompts, "max_tokens": st.integers(-1, 8)},
    optional={**knobs, "logprobs": st.integers(-1, 6) | scalars, "best_of": scalars, "suffix": scalars},
)
few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def answered(gateway: Running, path: str, body: Any) -> None:
    answer = gateway.client.post(path, content=json.dumps(body))
    assert answer.status_code in (200, 400), (answer.status_code, answer.text)
    if answer.status_code == 400:
        assert answer.json()["error"]["message"]
    elif body.get("stream") is True:
        assert answer.text.endswith("data: [DONE]\n\n") and '"error"' not in answer.text
    else:
        assert answer.json()["usage"]["completion_tokens"] <= 8 * len(answer.json()["choices"])


@few
@given(body=chats)
def test_any_chat_request_is_answered(gateway: Running, body: Any) -> None:
    answered(gateway, CHAT, body)


@few
@given(body=texts)
def test_any_completion_request_is_answered(gateway: Running, body: Any) -> None:
    answered(gateway, TEXT, body)


@few
@given(body=st.binary(max_size=60) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_answered(gateway: Running, body: bytes) -> None:
    for path in (CHAT, TEXT, "/tokenize", "/detokenize"):
        assert gateway.client.post(path, content=body).status_code in (200, 400, 404)
