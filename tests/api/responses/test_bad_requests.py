"""Requests that cannot be honoured: the status, and OpenAI's shape with the field at fault."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.running import Running

MESSAGE: Any = {"role": "user", "content": "x"}
FUNCTION: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CALL: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "c", "output": "x"}

BAD: list[tuple[str, Any, int, str | None]] = [
    ("no input", {}, 400, None),
    ("input of another type", {"input": 5}, 400, "input"),
    ("empty input", {"input": []}, 400, "input"),
    ("item of another type", {"input": [5]}, 400, "input[0]"),
    ("item without type", {"input": [{"text": "x"}]}, 400, "input[0].type"),
    ("type that is no text", {"input": [{"type": 5}]}, 400, "input[0].type"),
    ("unknown role", {"input": [{"role": "tool", "content": "x"}]}, 400, "input[0].role"),
    ("content of another type", {"input": [{"role": "user", "content": 5}]}, 400, "input[0].content"),
    ("image", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, 400, "input[0].content[0]"),
    ("file", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]}, 400, "input[0].content[0]"),
    ("part without text", {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, 400, "input[0].content[0]"),
    ("output without call", {"input": [OUTPUT]}, 400, "input[0].call_id"),
    ("second output", {"input": [CALL, OUTPUT, OUTPUT]}, 400, "input[2].call_id"),
    ("output before its call", {"input": [OUTPUT, CALL]}, 400, "input[0].call_id"),
    ("two calls with one id", {"input": [CALL, CALL]}, 400, "input[1].call_id"),
    ("call without id", {"input": [{**CALL, "call_id": None}]}, 400, "input[0].call_id"),
    ("output of another type", {"input": [CALL, {**OUTPUT, "output": 5}]}, 400, "input[1].output"),
    ("image in an output", {"input": [CALL, {**OUTPUT, "output": [{"type": "input_image"}]}]}, 400, "input[1].output[0]"),
    ("only skipped items", {"input": [{"type": "web_search_call", "id": "x"}]}, 400, "input"),
    ("unknown reference", {"input": [{"type": "item_reference", "id": "msg_1"}]}, 400, "input[0]"),
    ("unknown previous response", {"input": "x", "previous_response_id": "resp_1"}, 400, "previous_response_id"),
    ("conversation", {"input": "x", "conversation": "conv_1"}, 400, "conversation"),
    ("prompt", {"input": "x", "prompt": {"id": "p"}}, 400, "prompt"),
    ("background", {"input": "x", "background": True}, 400, "background"),
    ("tool without name", {"input": "x", "tools": [{"type": "function"}]}, 400, "tools[0]"),
    ("tool without type", {"input": "x", "tools": [{"name": "f"}]}, 400, "tools[0].type"),
    ("schema that is none", {"input": "x", "tools": [{**FUNCTION, "parameters": 5}]}, 400, "tools[0].parameters"),
    ("two tools of one name", {"input": "x", "tools": [FUNCTION, FUNCTION]}, 400, "tools[1]"),
    (
        "choice of no tool",
        {"input": "x", "tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}},
        400,
        "tool_choice",
    ),
    ("required without tools", {"input": "x", "tool_choice": "required"}, 400, "tool_choice"),
    ("unknown choice", {"input": "x", "tool_choice": "some"}, 400, "tool_choice"),
    ("hosted choice", {"input": "x", "tool_choice": {"type": "web_search"}}, 400, "tool_choice.type"),
    ("allowed nothing", {"input": "x", "tool_choice": {"type": "allowed_tools", "tools": []}}, 400, "tool_choice.tools"),
    ("unknown format", {"input": "x", "text": {"format": {"type": "xml"}}}, 400, "text.format.type"),
    (
        "format without schema",
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}},
        400,
        "text.format.schema",
    ),
    ("no tokens", {"input": "x", "max_output_tokens": 0}, 400, "max_output_tokens"),
    ("temperature", {"input": "x", "temperature": -1}, 400, "temperature"),
    ("two answers", {"input": "x", "n": 2}, 400, "n"),
    ("too long", {"input": "word " * 600}, 400, "input"),
    ("template that raises", {"input": "x", "chat_template_kwargs": {"boom": True}}, 400, "input"),
    ("unknown model", {"input": "x", "model": "gpt-4o"}, 404, "model"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "status", "param"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_requests(gateway: Running, fields: Any, status: int, param: str | None, stream: bool) -> None:
    answer = gateway.client.post("/v1/responses", json={"stream": stream, **fields})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and error["message"] and error["code"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"input": "\xff"}', b"[" * 100_000])
def test_bodies_that_are_no_request(gateway: Running, body: bytes) -> None:
    answer = gateway.client.post("/v1/responses", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses/resp_none", 404),
        ("DELETE", "/v1/responses/resp_none", 404),
        ("POST", "/v1/responses/resp_none/cancel", 404),
        ("GET", "/v1/responses/resp_none/input_items", 404),
        ("GET", "/v1/responses", 405),
        ("PUT", "/v1/responses/resp_none", 405),
    ],
)
def test_what_is_not_there(gateway: Running, method: str, path: str, status: int) -> None:
    answer = gateway.client.request(method, path)
    assert answer.status_code == status and answer.json()["error"]["message"]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=item_none"])
def test_pages_that_cannot_be(gateway: Running, query: str) -> None:
    id = gateway.client.post("/v1/responses", json={"input": "x", "max_output_tokens": 2}).json()["id"]
    answer = gateway.client.get(f"/v1/responses/{id}/input_items?{query}")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == query.partition("=")[0]
    assert gateway.client.get(f"/v1/responses/{id}?stream=true").status_code == 400
