"""Pure parts of the dialect: messages in, blocks out, signatures, wording."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.api.anthropic.blocks import BlockStream, blocks_of
from tokenwell.api.anthropic.options import conversation_of
from tokenwell.api.anthropic.requests import MessagesRequest
from tokenwell.api.anthropic.signature import sign, signed
from tokenwell.api.errors import ApiError
from tokenwell.chat.conversation import Conversation, ToolChoice
from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart
from tokenwell.service.window import fit, overflow_figures
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling

EVENTS: list[Event] = [
    Reasoning("let me "),
    Reasoning("look"),
    Content('I will "'),
    Content("look."),
    ToolStart(0, "call_a0", "read"),
    ToolArguments(0, '{"path":'),
    ToolArguments(0, '"a"}'),
    ToolEnd(0),
    ToolStart(1, "call_a1", "list"),
    ToolArguments(1, "{}"),
    ToolEnd(1),
    Reasoning("hm"),
    Content("Done."),
]
TOOL = {"name": "read", "description": "Reads.", "input_schema": {"type": "object", "properties": {}}}


def read(**fields: Any) -> tuple[Conversation, list[str]]:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return conversation_of(msgspec.convert(body, MessagesRequest))


def accumulated(frames: bytes) -> list[dict[str, Any]]:
    """What a strict client makes of frames; every block must be closed before the next opens."""
    blocks: list[dict[str, Any]] = []
    arguments = ""
    is_open = False
    for text in frames.decode().strip().split("\n\n") if frames else ():
        head, data = text.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert head == f"event: {event['type']}"
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == len(blocks)
            blocks.append(event["content_block"])
            is_open, arguments = True, ""
            continue
        assert is_open and event["index"] == len(blocks) - 1
        if event["type"] == "content_block_stop":
            is_open = False
            if blocks[-1]["type"] == "tool_use" and arguments:
                blocks[-1]["input"] = json.loads(arguments)
            continue
        delta = event["delta"]
        if delta["type"] == "input_json_delta":
            arguments += delta["partial_json"]
        elif delta["type"] == "signature_delta":
            blocks[-1]["signature"] = delta["signature"]
        else:
            name = delta["type"].removesuffix("_delta")
            blocks[-1][name] += delta[name]
    assert not is_open
    return blocks


@pytest.mark.parametrize("show", [True, False])
def test_streamed_blocks_are_the_whole_ones(show: bool) -> None:
    stream = BlockStream(show)
    frames = b"".join(stream.feed([event]) for event in EVENTS) + stream.close()
    assert frames == (again := BlockStream(show)).feed(EVENTS) + again.close()
    blocks = blocks_of(EVENTS, show)
    assert accumulated(frames) == blocks
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use", "thinking", "text"]
    assert blocks[0] == {"type": "thinking", "thinking": "let me look" if show else "", "signature": sign("let me look")}
    assert blocks[2] == {"type": "tool_use", "id": "toolu_a0", "name": "read", "input": {"path": "a"}}
    assert blocks[1]["text"] == 'I will "look.' and blocks[3]["input"] == {}


def test_a_cut_call_has_no_half_input() -> None:
    cut = [*EVENTS[2:5], ToolArguments(0, '{"path": "a')]
    assert blocks_of(cut)[-1] == {"type": "tool_use", "id": "toolu_a0", "name": "read", "input": {}}
    stream = BlockStream()
    assert stream.feed(cut).endswith(b'a"}}\n\n') and stream.close().startswith(b"event: content_block_stop")
    assert BlockStream().close() == b"" and blocks_of([]) == []


@given(st.text(), st.text())
def test_signatures_hold_the_thought(thought: str, other: str) -> None:
    assert signed(sign(thought)) == thought
    assert signed(other) is None and signed("tw1_" + other) in (None, "")


def test_a_replayed_answer_is_the_message_as_it_was_generated() -> None:
    blocks = blocks_of(EVENTS[:11])
    blocks[0]["thinking"] = "trimmed"
    results = [{"type": "tool_result", "tool_use_id": f"toolu_a{n}", "content": "x"} for n in (0, 1)]
    conversation, _ = read(
        messages=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": blocks},
            {"role": "user", "content": [*results, {"type": "text", "text": "go on"}]},
        ]
    )
    assert [message.role for message in conversation.messages] == ["user", "assistant", "tool", "tool", "user"]
    answer = conversation.messages[1]
    assert answer.reasoning == "let me look" and answer.content == 'I will "look.'
    assert [(call.id, call.name, json.loads(call.arguments)) for call in answer.tool_calls] == [
        ("toolu_a0", "read", {"path": "a"}),
        ("toolu_a1", "list", {}),
    ]


def test_what_is_read() -> None:
    conversation, warnings = read(
        system=[{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "B"}],
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
            {"role": "user", "content": "three"},
            {"role": "system", "content": "later"},
            {
                "role": "assistant",
                "content": [
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "thinking", "thinking": "foreign", "signature": "ErcB"},
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
                    {"type": "text", "text": "The sky"},
                    {"type": "text", "text": " is blue."},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "body"}}
                ],
            },
        ],
    )
    told = [(message.role, message.content) for message in conversation.messages]
    assert told == [
        ("system", "A\nB"),
        ("user", "one\ntwo"),
        ("user", "three"),
        ("system", "later"),
        ("assistant", "The sky is blue."),
        ("user", "T\nbody"),
    ]
    assert conversation.messages[4].reasoning == "foreign"
    assert len(warnings) == 2 and "messages[3].content[2]" in warnings[0]
    assert conversation.add_generation_prompt and not conversation.continue_final_message


def test_results() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
    contents: list[Any] = ["plain", [{"type": "text", "text": "see"}, image], None, "no such file"]
    calls = [{"type": "tool_use", "id": f"c{n}", "name": "read", "input": {}} for n in range(4)]
    results = [{"type": "tool_result", "tool_use_id": f"c{n}", "content": content} for n, content in enumerate(contents)]
    results[3]["is_error"] = True
    conversation, warnings = read(
        messages=[
            {"role": "assistant", "content": calls},
            {"role": "user", "content": results[:2]},
            {"role": "user", "content": results[2:]},
        ]
    )
    texts = [message.content for message in conversation.messages[1:]]
    assert texts == ["plain", "see\n[image: not shown, this model reads text only]", "", "Error: no such file"]
    assert len(warnings) == 1 and "images were left out" in warnings[0]


def test_tools_and_choices() -> None:
    server = {"type": "web_search_20250305", "name": "web_search"}
    conversation, warnings = read(tools=[server, TOOL | {"type": "custom", "cache_control": {"type": "ephemeral"}}])
    assert conversation.tools == (
        {"type": "function", "function": {"name": "read", "description": "Reads.", "parameters": TOOL["input_schema"]}},
    )
    assert len(warnings) == 1 and "web_search_20250305" in warnings[0]
    for given_choice, expected in (
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "read"}, ToolChoice("required", ("read",))),
        ({"type": "none"}, ToolChoice("none")),
    ):
        conversation, _ = read(tools=[TOOL], tool_choice=given_choice)
        assert conversation.tool_choice == expected and conversation.parallel_tool_calls
        assert bool(conversation.tools) == (expected.mode != "none")
    conversation, _ = read(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert not conversation.parallel_tool_calls


def test_thinking_effort_and_form() -> None:
    assert read()[0].template_arguments == {"enable_thinking": False}
    conversation, warnings = read(thinking={"type": "enabled", "budget_tokens": 2048}, output_config={"effort": "max"})
    assert conversation.template_arguments == {"enable_thinking": True, "reasoning_effort": "high"}
    assert len(warnings) == 1 and "budget_tokens" in warnings[0]
    assert read(thinking={"type": "adaptive"})[0].template_arguments == {"enable_thinking": True}
    schema = {"type": "object"}
    for fields in (
        {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        {"output_format": {"type": "json_schema", "schema": schema}},
    ):
        output = read(**fields)[0].output
        assert output is not None and (output.kind, output.value) == ("json_schema", schema)


def test_prefill() -> None:
    ask = {"role": "user", "content": "hi"}
    conversation, _ = read(messages=[ask, {"role": "assistant", "content": "The answer is ("}])
    assert conversation.continue_final_message and not conversation.add_generation_prompt
    conversation, _ = read(messages=[ask, {"role": "assistant", "content": ""}])
    assert len(conversation.messages) == 1 and conversation.add_generation_prompt
    assert read(messages=[{"role": "assistant", "content": []}])[0].messages == ()
    with pytest.raises(ApiError, match="trailing whitespace"):
        read(messages=[ask, {"role": "assistant", "content": "The answer is "}])


def test_the_figures_of_an_overflow_are_read_back() -> None:
    refusal = fit(Generate("a", [1] * 70, Sampling(max_tokens=5)), 64, "messages")
    assert isinstance(refusal, RequestError) and overflow_figures(refusal.message) == (70, 64)
    assert overflow_figures("something else") is None
