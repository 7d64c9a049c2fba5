"""Answers of many servers, read into one form; and what is told when there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.agent.canned import Canned, as_json, call, end, stream
from tests.e2e.service import free_port

from tokenwell.agent.endpoint import Endpoint, EndpointError, Reply, base_of
from tokenwell.wire.errors import SettingsError


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://box:1/v1/", "http://box:1/v1"),
        ("https://a.example/api/v2/openai", "https://a.example/api/v2/openai"),
    ],
)
def test_addresses(url: str, base: str) -> None:
    assert base_of(url) == base


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://a b", "http://x:0", "http://x:y", "http://x/?q=1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingsError, match="is not an address"):
        base_of(url)


def asked(answer: tuple[int, str, bytes]) -> tuple[Reply, list[tuple[str, str]]]:
    """The reply that one canned answer gives, and its pieces."""
    with Canned(answer) as canned:
        endpoint = Endpoint(canned.base)
        endpoint.choose("m")
        reply = endpoint.ask([{"role": "user", "content": "hi"}])
        return reply, list(reply)


def test_text_thinking_and_usage() -> None:
    reply, pieces = asked(
        stream(
            {"role": "assistant"},
            {"choices": []},  # keeps the connection alive
            {"reasoning_content": "hm", "reasoning": "hm"},
            {"content": "a\u2028b"},  # a line end that is none of the stream's
            {"content": "中"},
            end(),
            {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 4}},
        )
    )
    assert pieces == [("thinking", "hm"), ("text", "a\u2028b"), ("text", "中")]
    assert (reply.text, reply.thinking, reply.finish) == ("a\u2028b中", "hm", "stop")
    assert (reply.prompt_tokens, reply.tokens) == (7, 4)
    assert 0 < reply.first_s <= reply.seconds
    assert reply.message() == {"role": "assistant", "content": "a\u2028b中", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    "deltas",
    [
        [call("f", '{"a":', 0, "x"), call("", "1}", 0, None), call("g", "{}", 1, "y")],
        [call("f", '{"a":1}', 0, "x"), call("g", "{}", 0, "y")],  # every call has the number 0
        [call("f", '{"a":1}', None, "x"), call("g", "{}", None, "y")],
        [call("f", '{"a":', 0, "x"), call("g", "{", 1, "y"), call("", "1}", 0, "x"), call("", "}", 1, None)],
    ],
)
def test_calls_however_they_are_counted(deltas: list[Any]) -> None:
    reply, pieces = asked(stream(*deltas, end("tool_calls")))
    assert [(each.id, each.name, each.arguments) for each in reply.calls] == [("x", "f", '{"a":1}'), ("y", "g", "{}")]
    assert [text for kind, text in pieces if kind == "call"] == ["f", "g"]


def test_calls_without_ids_get_some() -> None:
    reply, _ = asked(stream(call("f", "{}", 0, None), call("g", "{}", 1, None), end("tool_calls")))
    assert [each.id for each in reply.calls] == ["call_1", "call_2"]


def test_arguments_that_are_no_object_are_not_sent_back() -> None:
    reply, _ = asked(stream(call("f", '{"a":'), end("tool_calls")))
    assert reply.calls[0].arguments == '{"a":'
    assert reply.message()["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


def test_an_answer_that_is_not_streamed() -> None:
    message = {"content": "yes", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": {"a": "中"}}}]}
    reply, _ = asked(as_json({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 2}}))
    assert (reply.text, reply.calls[0].arguments, reply.tokens) == ("yes", '{"a": "中"}', 2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (stream({"content": "a"}, done=False), "ended in the middle"),
        (stream({"content": "a"}, {"error": {"message": "out of memory"}}), "gave up: out of memory"),
        (as_json({"error": {"message": "no such model"}}, 404), "refused with 404: no such model"),
        (as_json({"detail": "nope"}, 422), "refused with 422: nope"),
        (as_json({}, 401), "wants another API key; give one that it accepts with --api-key"),
        ((500, "text/html", b"<html>"), "refused with 500"),
        ((200, "text/html", b"data: <p>\n\n"), "does not speak the OpenAI Chat API"),
        (as_json([]), "does not speak the OpenAI Chat API"),
    ],
)
def test_what_goes_wrong_is_told(answer: tuple[int, str, bytes], said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        asked(answer)


def test_models_and_keys() -> None:
    cards = as_json({"data": [{"id": "a"}, {"id": "b"}]})
    with Canned(cards, cards, as_json({"data": []}), as_json({}, 403), as_json("x")) as canned:
        endpoint = Endpoint(canned.base, "secret")
        assert endpoint.models() == ["a", "b"]
        endpoint.choose(None)
        assert endpoint.model == "a"
        for said in ("lists no models", "another API key", "lists no models"):
            with pytest.raises(EndpointError, match=said):
                endpoint.models()
    assert set(canned.keys) == {"Bearer secret"}


def test_keys_that_cannot_be_sent() -> None:
    for key in ("ключ", "a\nb"):
        with pytest.raises(SettingsError, match="cannot be sent"):
            Endpoint("http://127.0.0.1:1/v1", key)


def test_nobody_there() -> None:
    endpoint = Endpoint(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(EndpointError, match=r"no service answers at .*\. Start one with: tokenwell serve"):
        endpoint.choose(None)
    endpoint.choose("m")
    with pytest.raises(EndpointError, match="no service answers at"):
        list(endpoint.ask([]))


def test_what_is_asked() -> None:
    with Canned(stream({"content": "a"}, end()), stream({"content": "a"}, end())) as canned:
        endpoint = Endpoint(canned.base)
        endpoint.choose("m")
        messages = [{"role": "user", "content": "hi"}]
        list(endpoint.ask(messages))
        list(endpoint.ask(messages, [{"type": "function"}], 0.0))
    plain = {"model": "m", "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    assert canned.requests == [plain, plain | {"tools": [{"type": "function"}], "temperature": 0.0}]
    assert canned.keys == [None, None]
    assert json.dumps(canned.requests)
