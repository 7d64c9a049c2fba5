"""Answers of many servers, read into one form; and what is told when there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.agent.canned import Canned, as_json, call, end, stream
from tests.waiting import free_port

from tokenwell.agent.endpoint import Endpoint, EndpointError, Reply, base_of, per_token_s
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
        [call("", "", 0, "x"), call("f", "", 0, None), call("", '{"a":1}', 0, None), call("g", "{}", 1, "y")],
        [call("f", '{"a":', 0, "x"), call("f", "1}", 0, "x"), call("f", "", 0, "x"), call("g", "{}", 1, "y")],  # names again
        [{"tool_calls": call("f", '{"a":1}', 0, "x")["tool_calls"] + call("g", "{}", 1, "y")["tool_calls"]}],
    ],
)
def test_calls_however_they_are_counted(deltas: list[Any]) -> None:
    reply, pieces = asked(stream(*deltas, end("tool_calls")))
    assert [(each.id, each.name, each.arguments) for each in reply.calls] == [("x", "f", '{"a":1}'), ("y", "g", "{}")]
    shown = "".join({"call": f"> {text} "}.get(kind, text) for kind, text in pieces)
    assert shown == '> f {"a":1}> g {}'  # one after the other, however they came


@pytest.mark.parametrize(("number", "id"), [(0, None), (None, None), (None, ""), (0, "same")])
def test_whole_calls_that_nothing_tells_apart_are_several(number: int | None, id: str | None) -> None:
    parts = [("f", '{"a":1}'), ("f", '{"a":2}'), ("g", "{"), ("", "}")]
    reply, _ = asked(stream(*[call(*part, number, id) for part in parts], end("tool_calls")))
    assert [(each.name, each.arguments) for each in reply.calls] == [("f", '{"a":1}'), ("f", '{"a":2}'), ("g", "{}")]
    assert len({each.id for each in reply.calls}) == 3


def test_calls_without_ids_get_some() -> None:
    reply, _ = asked(stream(call("f", "{}", 0, None), call("g", "{}", 1, None), end("tool_calls")))
    assert [each.id for each in reply.calls] == ["call_1", "call_2"]


@pytest.mark.parametrize(("given", "arguments"), [({"a": "中"}, '{"a": "中"}'), ({}, "{}"), (None, ""), ([], "[]")])
def test_arguments_that_are_no_text(given: Any, arguments: str) -> None:
    reply, _ = asked(stream(call("f", given), end("tool_calls")))
    assert reply.calls[0].arguments == arguments


def test_arguments_that_are_no_object_are_not_sent_back() -> None:
    reply, _ = asked(stream(call("f", '{"a":'), end("tool_calls")))
    assert reply.calls[0].arguments == '{"a":'
    assert reply.message()["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


_HELLO = b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n\n'
_END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    "answer",
    [
        (200, "text/event-stream", _HELLO + b"data: [DONE]\n\n"),  # does not say why it ends
        (200, "text/event-stream", _HELLO + _END),  # without a line end
        (200, "application/json", b"\n" + _HELLO + _END),
        (200, "text/plain", b'{"choices": [{"message": {"content": "Hello"}}]}'),
        as_json({"choices": [{"message": {"content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}}]}),
        stream({"content": "Hello"}, {"choices": [], "usage": {"prompt_tokens": "n/a", "completion_tokens": None}}, end()),
    ],
)
def test_answers_of_careless_endpoints(answer: tuple[int, str, bytes]) -> None:
    reply, pieces = asked(answer)
    assert ("".join(text for _, text in pieces), reply.finish) == ("Hello", "stop")


def test_halves_of_characters_and_broken_ones_are_replaced() -> None:
    split = _HELLO.replace(b"Hello", b"a\\ud83d") + _HELLO.replace(b"Hello", b"\xff")
    with Canned((200, "text/event-stream", split + _END), stream({"content": "ok"}, end())) as canned:
        endpoint = Endpoint(canned.base)
        reply = endpoint.ask([])
        list(reply)
        list(endpoint.ask([reply.message(), {"role": "user", "content": "b\udcff"}]))  # from an argument that is no UTF-8
    assert [message["content"] for message in canned.requests[1]["messages"]] == ["a\ufffd\ufffd", "b?"]


def test_times() -> None:
    reply, _ = asked(stream(end(), {"choices": [], "usage": {"completion_tokens": 1}}))
    assert reply.first_s == 0 < reply.seconds  # nothing came, and that took its time
    at_once, _ = asked(stream(*[{"content": "a"}] * 9, end(), {"choices": [], "usage": {"completion_tokens": 9000}}))
    assert at_once.tokens_per_s is None
    assert per_token_s(11, 1.0, 2.0) == pytest.approx(0.1)
    assert per_token_s(1, 1.0, 2.0) is per_token_s(0, 1.0, 2.0) is per_token_s(20, 1.0, 1.0001) is None


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
        (as_json({"status": "ok"}), "ended in the middle"),
        ((200, "text/html", b" <!doctype html><p>Web"), "does not speak the OpenAI Chat API"),
        ((404, "text/html", b"<html>"), "refused with 404: check the address"),
        ((400, "text/plain", b"no such\nmodel\n"), "refused with 400: no such model$"),
        ((500, "text/plain", b"x" * 9999), f"{'x' * 500} ...$"),
        (as_json({"error": "expired"}, 401), "with --api-key. It says: expired$"),
        (stream({"content": "a"}, {"choices": {}}, {"choices": ["x"]}, end()), "does not speak the OpenAI Chat API"),
        (stream({"choices": {"0": 1}}, end()), "does not speak the OpenAI Chat API"),
        (stream({"choices": [{"delta": "x"}]}, end()), "does not speak the OpenAI Chat API"),
        (stream({"tool_calls": {"a": 1}}, end()), "does not speak the OpenAI Chat API"),
        (stream({"tool_calls": [{"function": "f"}]}, end()), "does not speak the OpenAI Chat API"),
        ((200, "text/event-stream", _HELLO + b'data: {"object": "error", "message": "engine died"}\n\n'), "gave up: engine died"),
        ((200, "text/event-stream", b"data: " + b"[" * 9999 + b"\n\n"), "does not speak the OpenAI Chat API"),
        ((200, "text/event-stream", b"data: [DONE]\n\n"), "ended in the middle"),
    ],
)
def test_what_goes_wrong_is_told(answer: tuple[int, str, bytes], said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        asked(answer)


def test_an_endpoint_that_has_moved_says_where() -> None:
    with Canned((308, "text/plain", b"")) as canned, pytest.raises(EndpointError, match=r"moved to https://a/v1; give"):
        canned.headers["location"] = "https://a/v1/chat/completions"
        list(Endpoint(canned.base).ask([]))


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "foo://x"])
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(SettingsError, match="the proxy that the environment names"):
        Endpoint("https://a.example/v1")
    Endpoint("http://127.0.0.1:9/v1").close()  # needs none


def test_models_and_keys() -> None:
    cards = as_json({"data": [{"id": "a"}, {"id": "b"}]})
    broken = (200, "application/json", b'{"data": "\xff"}')
    with Canned(cards, cards, as_json({"data": []}), as_json({}, 403), as_json("x"), broken) as canned:
        endpoint = Endpoint(canned.base, "secret")
        assert endpoint.models() == ["a", "b"]
        endpoint.choose(None)
        assert endpoint.model == "a"
        for said in ("lists no models", "another API key", "lists no models", "lists no models"):
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
