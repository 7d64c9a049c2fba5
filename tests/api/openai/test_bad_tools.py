"""Requests with tools, calls and schemas that are wrong: each is OpenAI's error, with the field at fault, and nothing breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.fakes.running import Running
from tests.waiting import PATIENCE_S

HELLO: Any = {"role": "user", "content": "hello"}


def deep(levels: int) -> Any:
    schema: Any = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def tool(parameters: Any = None, name: str = "read") -> Any:
    return {"type": "function", "function": {"name": name, "parameters": parameters or {"type": "object"}}}


def called(*ids: str, arguments: str = "{}") -> Any:
    calls = [{"id": id, "type": "function", "function": {"name": "read", "arguments": arguments}} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(id: str | None, content: Any = "text") -> Any:
    return {"role": "tool", "content": content} | ({} if id is None else {"tool_call_id": id})


def schema(value: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value, "strict": True}}


CASES: list[tuple[dict[str, Any], str]] = [
    ({"messages": [HELLO, result("call_1")]}, "messages[1].tool_call_id"),
    ({"messages": [HELLO, result(None)]}, "messages[1].tool_call_id"),
    ({"messages": [HELLO, called("a"), result("b")]}, "messages[2].tool_call_id"),
    ({"messages": [HELLO, called("a"), result("a"), result("a")]}, "messages[3].tool_call_id"),
    ({"messages": [HELLO, called("a"), result("a"), result(None)]}, "messages[3].tool_call_id"),
    ({"messages": [HELLO, called("a", "a")]}, "messages[1].tool_calls"),
    (
        {"messages": [HELLO, called("a"), result("a", [{"type": "image_url"}])]},
        "messages[2].content[0]",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [tool(name="")]}, "tools[0].function.name"),
    ({"tools": [tool(), tool()]}, "tools[1].function.name"),
    ({"tools": [tool({"type": "klingon"})]}, "tools[0].function.parameters.type"),
    ({"tools": [tool({"type": "object", "properties": []})]}, "tools[0].function.parameters.properties"),
    ({"tools": [tool({"$ref": "#/$defs/nothing"})]}, "tools[0].function.parameters.$ref"),
    ({"tools": [tool({"$ref": "https://example.com/schema"})]}, "tools[0].function.parameters.$ref"),
    ({"tools": [tool({"allOf": [{"$ref": "#"}]})]}, "tools[0].function.parameters"),
    ({"tools": [tool(deep(100))]}, "tools[0].function.parameters"),
    ({"tools": [tool(deep(400))]}, ""),
    ({"messages": [HELLO, called("a", arguments="[" * 5000)], "tools": [tool(deep(100))]}, "tools[0]"),
    ({"tools": [tool({"type": "object", "properties": {f"p{n}": {"enum": ["x" * 90]} for n in range(9000)}})]}, ""),
    ({"tools": [tool()], "tool_choice": "perhaps"}, "tool_choice"),
    ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": schema({"type": "klingon"})}, "response_format.json_schema.schema.type"),
    ({"response_format": schema({"$ref": "#/$defs/a"})}, "response_format.json_schema.schema.$ref"),
    ({"response_format": schema({"type": "object"}), "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
    ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), CASES, ids=[f"{index}-{param}" for index, (_, param) in enumerate(CASES)])
def test_bad_requests(gateway: Running, fields: dict[str, Any], param: str, stream: bool) -> None:
    body = {"messages": [HELLO], "max_tokens": 4, "stream": stream} | fields
    answer = gateway.client.post("/v1/chat/completions", content=json.dumps(body).encode(), timeout=PATIENCE_S)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param) and error["message"] and "Traceback" not in error["message"], error


def test_recursive_schemas_are_fine(gateway: Running) -> None:
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}}
    for fields in ({"tools": [tool(tree)]}, {"response_format": schema(tree)}):
        answer = gateway.client.post("/v1/chat/completions", json={"messages": [HELLO], "max_tokens": 2} | fields)
        assert answer.status_code == 200, answer.text


def test_what_is_left_out_is_told(gateway: Running) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = [HELLO, called("a"), result("a", [{"type": "text", "text": "a picture:"}, picture])]
    tools = [tool({"type": "object", "properties": {"n": {"type": "string", "pattern": "(?<=a)b"}}}), {"type": "web_search"}]
    answer = gateway.client.post("/v1/chat/completions", json={"messages": messages, "tools": tools, "max_tokens": 2})
    assert answer.status_code == 200, answer.text
    warning = answer.headers["x-tokenwell-warning"]
    assert "image_url" in warning and "web_search" in warning and "tools[0].function.parameters.properties.n.pattern" in warning


@pytest.mark.parametrize("kind", ["\0", "a\nb\x7f", "ä" * 3000])
def test_what_is_left_out_is_told_in_one_line_whatever_its_name(gateway: Running, kind: str) -> None:
    """A control character in a header would end the connection without an answer."""
    answer = gateway.client.post("/v1/chat/completions", json={"messages": [HELLO], "tools": [{"type": kind}], "max_tokens": 2})
    assert answer.status_code == 200, answer.text
    warning = answer.headers["x-tokenwell-warning"]
    assert "skipped" in warning and warning.isascii() and warning.isprintable() and len(warning) <= 1000


@pytest.mark.parametrize(
    "schema", [{"type": "integer", "minimum": 2**70}, {"enum": [-(2**70)]}, {"type": 2**70}, {"x-note": 2**70}]
)
def test_numbers_of_any_size_may_be_in_schemas(gateway: Running, schema: dict[str, Any]) -> None:
    tools = [tool({"type": "object", "properties": {"n": schema}})]
    answer = gateway.client.post("/v1/chat/completions", json={"messages": [HELLO], "tools": tools, "max_tokens": 2})
    assert answer.status_code == (400 if schema == {"type": 2**70} else 200), answer.text
