"""What is wrong with a request is said in Anthropic's shape, with its status, whatever the layer that noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fakes.running import Running

ASK = {"role": "user", "content": "hi"}
CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "read", "input": {}}]}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": "x"}
TOOL = {"name": "read", "input_schema": {"type": "object"}}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def check(answer: Any, status: int, kind: str) -> str:
    """The message of an error after its shape was looked at."""
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert set(told) == {"type", "error", "request_id"} and told["type"] == "error"
    assert set(told["error"]) == {"type", "message"} and told["error"]["type"] == kind
    assert told["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
    message: str = told["error"]["message"]
    return message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user()]}, "non-empty"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty"),
        ({"messages": [assistant(), ASK]}, "non-empty"),
        ({"messages": [user({"type": "text", "text": ""})]}, "non-empty"),
        ({"messages": [user({"type": "text"})]}, "no text"),
        ({"messages": [user({"text": "x"})]}, "type"),
        ({"messages": [user({"type": "image", "source": {"type": "url", "url": "x"}})]}, "text only"),
        ({"messages": [user({"type": "document", "source": {"type": "base64", "data": "x"}})]}, "text only"),
        ({"messages": [user({"type": "hologram"})]}, "hologram"),
        ({"messages": [user({"type": "thinking", "thinking": "x"})]}, "assistant messages"),
        ({"messages": [assistant(RESULT), ASK]}, "user messages"),
        ({"messages": [user(RESULT)]}, "unexpected `tool_use_id`"),
        ({"messages": [ASK, CALL]}, "immediately after: c"),
        ({"messages": [ASK, CALL, ASK]}, "immediately after: c"),
        ({"messages": [ASK, CALL, user({"type": "text", "text": "x"}, RESULT)]}, "immediately after: c"),
        ({"messages": [ASK, CALL, user(RESULT, RESULT)]}, "single result"),
        ({"messages": [ASK, CALL, user(RESULT), CALL, user(RESULT)]}, "must be unique"),
        ({"messages": [ASK, CALL, user({"type": "tool_result", "content": "x"})]}, "tool_use_id` is missing"),
        ({"messages": [ASK, CALL, user(RESULT | {"content": 5})]}, "messages[2].content[0].content"),
        ({"messages": [ASK, CALL, user(RESULT | {"content": [{"type": "image"}]})]}, "text only"),
        ({"messages": [assistant({"type": "tool_use", "id": "c", "name": "f", "input": "x"}), user(RESULT)]}, "object"),
        ({"messages": [assistant({"type": "tool_use", "id": "c", "input": {}}), user(RESULT)]}, "name` is missing"),
        ({"messages": [assistant({"type": "thinking"}), ASK]}, "thinking` is missing"),
        ({"messages": [ASK, {"role": "assistant", "content": "so "}]}, "trailing whitespace"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "no messages"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "text only"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"tools": [{"name": "read"}]}, "input_schema` is missing"),
        ({"tools": [{"input_schema": {}}]}, "name` is missing"),
        ({"tools": [TOOL, TOOL]}, "unique"),
        ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "`object`"),
        ({"tools": [TOOL], "tool_choice": {"type": "perhaps"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "write"}}, "`write`"),
        ({"tool_choice": {"type": "any"}}, "no custom tool"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "budget_tokens"),
        ({"output_config": {"effort": "heroic"}}, "effort"),
        ({"output_format": {"type": "xml"}}, "json_schema"),
        ({"output_format": {"type": "json_schema", "schema": "x"}}, "JSON schema"),
        ({"chat_template_kwargs": {"messages": []}}, "messages"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens?beta=true"])
def test_bad_fields(gateway: Running, path: str, fields: dict[str, Any], words: str) -> None:
    answer = gateway.client.post(path, json={"max_tokens": 4, "messages": [ASK]} | fields)
    assert words in check(answer, 400, "invalid_request_error")


def test_bad_bodies(gateway: Running) -> None:
    for body in (b"", b"{", b"[]", b"\xff", b"null", b'{"messages": ' + b"[" * 5000):
        check(gateway.client.post("/v1/messages", content=body), 400, "invalid_request_error")
    check(gateway.client.post("/v1/messages", content=b" " * (17 * 2**20)), 413, "request_too_large")


def test_a_long_prompt_is_told_in_words_that_clients_know(gateway: Running) -> None:
    body = {"max_tokens": 4, "messages": [{"role": "user", "content": "hello world " * 600}]}
    count = gateway.client.post("/v1/messages/count_tokens", json=body).json()["input_tokens"]
    answer = gateway.client.post("/v1/messages", json=body)
    assert check(answer, 400, "invalid_request_error") == f"prompt is too long: {count} tokens > 512 maximum"


def test_routes_and_names(gateway: Running) -> None:
    client = gateway.client
    check(client.post("/v1/messages", json={"model": "claude", "messages": [ASK]}), 404, "not_found_error")
    check(client.post("/v1/messages/batches", json={}), 404, "not_found_error")
    check(client.get("/v1/messages"), 405, "invalid_request_error")
    version = {"anthropic-version": "2023-06-01"}
    check(client.get("/v1/models/claude", headers=version), 404, "not_found_error")
    assert "code" in client.get("/v1/models/claude").json()["error"]  # OpenAI's shape for everybody else
    assert client.head("/").status_code == 200


def test_keys(checkpoint: Path, tmp_path: Path) -> None:
    with Running(checkpoint, tmp_path, server={"api_key": ["first"]}) as running:
        running.ready()
        body = {"max_tokens": 2, "messages": [ASK]}
        check(running.client.post("/v1/messages", json=body), 401, "authentication_error")
        check(running.client.post("/v1/messages", json=body, headers={"x-api-key": "other"}), 401, "authentication_error")
        for headers in ({"x-api-key": "first"}, {"authorization": "Bearer first"}):
            assert running.client.post("/v1/messages", json=body, headers=headers).status_code == 200
