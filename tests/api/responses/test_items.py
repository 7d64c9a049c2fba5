"""Items, tools and choices as the model sees them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tokenwell.api.errors import ApiError
from tokenwell.api.responses.conversation import Understood, understand
from tokenwell.api.responses.requests import CreateRequest
from tokenwell.api.responses.sealed import seal
from tokenwell.api.responses.store import ResponseStore, Stored
from tokenwell.chat.conversation import Message, OutputFormat, ToolCall, ToolChoice

CALL = {"type": "function_call", "call_id": "c1", "name": "read", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "fine"}
READ = {"type": "function", "name": "read", "description": "reads", "parameters": {"type": "object"}}
GROUP = {
    "type": "namespace",
    "name": "mcp__fs__",
    "tools": [{"type": "function", "name": "read"}, {"type": "custom", "name": "sh"}],
}
PATCH = {
    "type": "custom",
    "name": "patch",
    "description": "d",
    "format": {"type": "grammar", "syntax": "lark", "definition": "x: y"},
}


def read(store: ResponseStore | None = None, **fields: Any) -> Understood:
    wanted = msgspec.convert({"input": "hi", **fields}, CreateRequest)
    return asyncio.run(understand(wanted, store or ResponseStore(None, 0, 0)))


def messages(*items: Any, **fields: Any) -> list[Message]:
    return list(read(input=list(items), **fields).conversation.messages)


def test_a_string_and_instructions() -> None:
    assert read(instructions="be").conversation.messages == (Message("system", "be"), Message("user", "hi"))


def test_messages_with_and_without_type() -> None:
    assert messages(
        {"role": "developer", "content": "d"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "id": "msg_1", "phase": "final_answer"},
    ) == [Message("developer", "d"), Message("user", "a\nb"), Message("assistant", "no")]


def test_items_of_one_answer_are_one_message() -> None:
    found = messages(
        {"role": "user", "content": "go"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal("hmm\n")},
        {"role": "assistant", "content": "I look."},
        CALL,
        {**CALL, "call_id": "c2"},
        OUTPUT,
        {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "too"}]},
        {"role": "assistant", "content": "Done."},
    )
    calls = (ToolCall("c1", "read", '{"a": 1}'), ToolCall("c2", "read", '{"a": 1}'))
    assert found == [
        Message("user", "go"),
        Message("assistant", "I look.", reasoning="hmm\n", tool_calls=calls),
        Message("tool", "fine", tool_call_id="c1"),
        Message("tool", "too", tool_call_id="c2"),
        Message("assistant", "Done."),
    ]


@pytest.mark.parametrize(
    ("item", "thought"),
    [
        ({"summary": [], "content": [{"type": "reasoning_text", "text": "t"}]}, "t"),
        ({"summary": [{"type": "summary_text", "text": "s"}]}, "s"),
        ({"summary": [], "content": None, "encrypted_content": "gAAAA"}, None),
        ({"content": [{"type": "reasoning_text", "text": "t"}], "encrypted_content": seal("exact")}, "exact"),
    ],
)
def test_thoughts(item: Any, thought: str | None) -> None:
    found = messages({"type": "reasoning", **item}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"})
    assert found[0] == Message("assistant", "x", reasoning=thought)


def test_a_foreign_thought_alone_leaves_no_empty_message() -> None:
    found = messages({"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}, {"role": "user", "content": "y"})
    assert found == [Message("user", "y")]


def test_unknown_items_are_skipped_with_a_warning() -> None:
    found = read(input=[{"type": "web_search_call", "id": "ws_1"}, {"role": "user", "content": "x"}])
    assert found.conversation.messages == (Message("user", "x"),)
    assert found.warnings == ["input[0] of type web_search_call was skipped: it cannot be shown to the model"]


def test_tools_and_their_names() -> None:
    found = read(tools=[READ, GROUP, PATCH, {"type": "web_search"}, {"type": "local_shell"}])
    names = [tool["function"]["name"] for tool in found.conversation.tools]
    assert names == ["read", "mcp__fs__read", "mcp__fs__sh", "patch"]
    assert found.conversation.tools[0] == {
        "type": "function",
        "function": {"name": "read", "description": "reads", "parameters": {"type": "object"}},
    }
    patch = found.conversation.tools[3]["function"]
    assert patch["parameters"]["required"] == ["input"] and "x: y" in patch["description"]
    assert len(found.warnings) == 2 and "web_search" in found.warnings[0]


def test_past_calls_go_by_the_offered_names() -> None:
    found = messages(
        {**CALL, "namespace": "mcp__fs__"},
        OUTPUT,
        {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": 'é\n"'},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "ok"},
        {**CALL, "call_id": "c3", "namespace": "gone", "arguments": {"a": 1}},
        tools=[READ, GROUP, PATCH],
    )
    assert [call for message in found for call in message.tool_calls] == [
        ToolCall("c1", "mcp__fs__read", '{"a": 1}'),
        ToolCall("c2", "patch", '{"input": "é\\n\\""}'),
        ToolCall("c3", "gone__read", '{"a":1}'),
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "patch"}, ToolChoice("required", ("patch",))),
        ({"type": "custom", "name": "patch"}, ToolChoice("required", ("patch",))),
        ({"type": "function", "name": "sh"}, ToolChoice("required", ("mcp__fs__sh",))),
        ({"type": "function", "function": {"name": "read"}}, ToolChoice("required", ("read",))),
        ({"type": "function", "name": "read", "namespace": "mcp__fs__"}, ToolChoice("required", ("mcp__fs__read",))),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "namespace", "name": "mcp__fs__"}, READ]},
            ToolChoice("required", ("mcp__fs__read", "mcp__fs__sh", "read")),
        ),
        ({"type": "allowed_tools", "tools": [READ]}, ToolChoice("auto", ("read",))),
    ],
)
def test_choices(choice: Any, expected: ToolChoice) -> None:
    assert read(tools=[READ, GROUP, PATCH], tool_choice=choice).conversation.tool_choice == expected


def test_no_tools_are_shown_when_none_may_be_called() -> None:
    found = read(tools=[READ], tool_choice="none").conversation
    assert found.tools == () and found.tool_choice.mode == "none"


def test_formats_and_effort() -> None:
    schema = {"type": "object"}
    wanted = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    assert read(text=wanted).conversation.output == OutputFormat("json_schema", schema, "text.format")
    assert read(text={"format": {"type": "json_object"}}).conversation.output == OutputFormat("json_object", None, "text.format")
    assert read(text={"format": {"type": "text"}}).conversation.output is None
    assert read(reasoning={"effort": "high"}).conversation.template_arguments == {"reasoning_effort": "high"}
    none = read(reasoning={"effort": "none"}, chat_template_kwargs={"x": 1}).conversation.template_arguments
    assert none == {"reasoning_effort": "none", "enable_thinking": False, "x": 1}


def test_history_and_references_come_from_the_store(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path, 2**20, 10)
    output = [{"type": "message", "id": "msg_0123456789abcdef0000", "role": "assistant", "content": "b"}]
    asyncio.run(store.put("resp_0123456789abcdef", Stored({"output": output}, [{"role": "user", "content": "a"}])))
    found = read(store, input="c", previous_response_id="resp_0123456789abcdef").conversation.messages
    assert found == (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    items = [
        {"role": "user", "content": "a"},
        {"type": "item_reference", "id": output[0]["id"]},
        {"role": "user", "content": "d"},
    ]
    assert read(store, input=items).conversation.messages[1] == Message("assistant", "b")
    items[1] = {"id": output[0]["id"]}
    assert read(store, input=items).conversation.messages[1] == Message("assistant", "b")
    with pytest.raises(ApiError) as caught:
        read(store, previous_response_id="resp_none")
    assert (caught.value.status, caught.value.code) == (400, "previous_response_not_found")
    store.close()
