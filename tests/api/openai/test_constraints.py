"""What a request wants its answer held to, and what it may not want."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tokenwell.api.errors import ApiError
from tokenwell.api.openai.constraints import output_of
from tokenwell.api.openai.conversation import conversation_of
from tokenwell.api.openai.requests import ChatRequest
from tokenwell.chat.conversation import Conversation, OutputFormat, ToolChoice

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("read", "write")]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def request(**fields: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "hello"}], **fields}
    return msgspec.json.decode(msgspec.json.encode(body), type=ChatRequest)


def conversation(**fields: Any) -> Conversation:
    return conversation_of(request(**fields))[0]


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        conversation(**fields)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "read"}}, ToolChoice("required", ("read",))),
        ({"type": "function", "name": "write"}, ToolChoice("required", ("write",))),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "write"}}]},
            },
            ToolChoice("auto", ("write",)),
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "read"}}]},
            },
            ToolChoice("required", ("read",)),
        ),
    ],
)
def test_tool_choices(choice: Any, expected: ToolChoice) -> None:
    made = conversation(tools=TOOLS, tool_choice=choice)
    assert made.tool_choice == expected
    assert len(made.tools) == 2


def test_no_tools_are_shown_when_none_may_be_called() -> None:
    assert conversation(tools=TOOLS, tool_choice="none").tools == ()


def test_the_older_fields_for_functions() -> None:
    made = conversation(functions=[{"name": "read", "parameters": {}}], function_call={"name": "read"})
    assert made.tool_choice == ToolChoice("required", ("read",))
    assert not made.parallel_tool_calls


def test_parallel_calls_can_be_switched_off() -> None:
    assert conversation(tools=TOOLS).parallel_tool_calls
    assert not conversation(tools=TOOLS, parallel_tool_calls=False).parallel_tool_calls


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "custom", "name": "read"}}, "tool_choice.type"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools.tools"),
        ({"functions": [{"name": "read"}], "function_call": {"name": "x"}}, "function_call"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.json_schema.schema"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_grammar": 3}, "guided_grammar"),
        ({"structured_outputs": []}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"yaml": 1}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert error.message


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, OutputFormat("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}},
            OutputFormat("json_schema", SCHEMA, "response_format.json_schema.schema"),
        ),
        ({"guided_json": '{"type": "string"}'}, OutputFormat("json_schema", {"type": "string"}, "guided_json")),
        ({"structured_outputs": {"json": SCHEMA}}, OutputFormat("json_schema", SCHEMA, "structured_outputs.json")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, OutputFormat("choice", ["a", "b"], "structured_outputs.choice")),
        ({"structured_outputs": {"regex": "a+"}}, OutputFormat("regex", "a+", "structured_outputs.regex")),
        ({"structured_outputs": {"json_object": True}}, OutputFormat("json_object", None, "structured_outputs.json_object")),
        ({"guided_grammar": 'start: "a"'}, OutputFormat("grammar", 'start: "a"', "guided_grammar")),
    ],
)
def test_output_formats(fields: dict[str, Any], expected: OutputFormat | None) -> None:
    assert output_of(request(**fields)) == expected
