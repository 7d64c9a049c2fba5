"""Tools through the whole service with the unmodified openai SDK: every chat format, streamed and not, forced and free."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import BadRequestError, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamEvent
from pydantic import BaseModel
from tests.e2e.service import Service, serve

FORMATS = ("gemma4", "harmony", "qwen_xml", "hermes", "llama3", "deepseek", "mistral")
THINKING = ("gemma4", "harmony", "qwen_xml", "hermes", "deepseek", "mistral")
PARALLEL = ("gemma4", "qwen_xml", "hermes", "deepseek", "mistral")
ARGUMENTS = {
    "path": "a/b.txt",
    "text": 'He said: "no\\yes"\n\tÜñï 🙂 {x} <tag>',
    "lines": [1, -2],
    "more": {"deep": None, "ok": True},
}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "write_file",
        "description": "Write a file.",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "text": {"type": "string"},
                "lines": {"type": "array", "items": {"type": "integer"}},
                "more": {
                    "type": "object",
                    "properties": {"deep": {"type": ["string", "null"]}, "ok": {"type": "boolean"}},
                    "additionalProperties": False,
                },
            },
            "required": ["path", "text"],
            "additionalProperties": False,
        },
    },
}
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"at": {"enum": ["left", "right"]}, "n": {"type": "integer"}},
            "required": ["at"],
        },
    },
}


@pytest.fixture(scope="module", params=FORMATS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, OpenAI, Service]]:
    log = tmp_path_factory.mktemp("scripted") / "log"
    with (
        serve(Path("scripted"), log, f"--chat-format={request.param}") as running,
        OpenAI(base_url=running.url + "/v1", api_key="any", max_retries=0) as client,
    ):
        yield request.param, client, running


def call_text(name: str, arguments: dict[str, Any]) -> str:
    return f"[[call {name} {json.dumps(arguments, ensure_ascii=False)}]]"


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_a_call_streamed_and_whole(service: tuple[str, OpenAI, Service]) -> None:
    format, client, _ = service
    think = "[[think Let me see.]]" if format in THINKING else ""
    messages = ask(f"Do it. {think}{call_text('write_file', ARGUMENTS)}")
    whole = client.chat.completions.create(model="", messages=messages, tools=[TOOL, LOOK])
    [choice] = whole.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "write_file"
    assert json.loads(call.function.arguments) == ARGUMENTS
    thought = getattr(choice.message, "reasoning_content", None)
    assert (thought == "Let me see.") is bool(think)
    if think:
        assert whole.usage is not None and whole.usage.completion_tokens_details is not None
        assert whole.usage.completion_tokens_details.reasoning_tokens
    with client.chat.completions.stream(model="", messages=messages, tools=[TOOL, LOOK]) as stream:
        events: list[ChatCompletionStreamEvent[None]] = list(stream)
        final = stream.get_final_completion()
    [streamed] = final.choices
    assert streamed.finish_reason == "tool_calls" and streamed.message.tool_calls is not None
    assert [(each.function.name, each.function.arguments) for each in streamed.message.tool_calls] == [
        ("write_file", call.function.arguments)
    ]
    pieces = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert len(pieces) > 5  # arguments come as they are generated
    assert "".join(piece.arguments_delta for piece in pieces) == call.function.arguments


def test_the_loop_goes_on_from_the_cache(service: tuple[str, OpenAI, Service]) -> None:
    _, client, _ = service
    messages = ask("Go. " * 50 + call_text("look", {"at": "left"}))
    first = client.chat.completions.create(model="", messages=messages, tools=[LOOK])
    assert first.choices[0].message.tool_calls and first.usage
    [call] = first.choices[0].message.tool_calls
    assert call.type == "function"
    # As some agents replay it: another id, arguments spelled anew, no content.
    again = {"id": call.id.replace("_", ""), "type": "function", "function": {"name": "look", "arguments": '{"at":"left"}'}}
    replayed = [
        *messages,
        {"role": "assistant", "content": None, "tool_calls": [again]},
        {"role": "tool", "tool_call_id": again["id"], "content": "a wall"},
    ]
    second = client.chat.completions.create(model="", messages=replayed, tools=[LOOK])
    assert second.choices[0].finish_reason == "stop" and second.choices[0].message.content
    assert second.usage is not None and second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) > 0.9 * first.usage.prompt_tokens


def test_parallel_calls_and_none_of_them_when_one_is_allowed(service: tuple[str, OpenAI, Service]) -> None:
    format, client, _ = service
    if format not in PARALLEL:
        return
    messages = ask(f"[[say Two.]]{call_text('look', {'at': 'left'})}{call_text('look', {'at': 'right', 'n': 3})}")
    both = client.chat.completions.create(model="", messages=messages, tools=[LOOK]).choices[0].message
    assert both.content == "Two." and both.tool_calls is not None
    assert [json.loads(call.function.arguments) for call in both.tool_calls if call.type == "function"] == [
        {"at": "left"},
        {"at": "right", "n": 3},
    ]
    assert len({call.id for call in both.tool_calls}) == 2
    one = client.chat.completions.create(model="", messages=messages, tools=[LOOK], parallel_tool_calls=False).choices[0].message
    assert one.tool_calls is not None and len(one.tool_calls) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_forced_call_is_valid(service: tuple[str, OpenAI, Service], choice: Any) -> None:
    _, client, _ = service
    answer = client.chat.completions.create(model="", messages=ask("Hello."), tools=[LOOK], tool_choice=choice).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.tool_calls
    [call] = answer.message.tool_calls
    assert call.type == "function" and call.function.name == "look"
    assert json.loads(call.function.arguments)["at"] in ("left", "right")


class Weather(BaseModel):
    city: str
    degrees: int
    sky: Literal["clear", "grey"]


def test_structured_output(service: tuple[str, OpenAI, Service]) -> None:
    _, client, _ = service
    parsed = client.chat.completions.parse(model="", messages=ask("The weather?"), response_format=Weather).choices[0].message
    assert isinstance(parsed.parsed, Weather)
    with client.chat.completions.stream(model="", messages=ask("The weather?"), response_format=Weather) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)
    free = client.chat.completions.create(model="", messages=ask("Any."), response_format={"type": "json_object"})
    assert isinstance(json.loads(free.choices[0].message.content or ""), dict)


def test_a_call_that_is_cut_is_no_call(service: tuple[str, OpenAI, Service]) -> None:
    _, client, _ = service
    messages = ask(call_text("write_file", ARGUMENTS | {"text": "x" * 400}))
    answer = client.chat.completions.create(model="", messages=messages, tools=[TOOL], max_tokens=120).choices[0]
    assert answer.finish_reason == "length"


def test_without_tools_nothing_is_a_call(service: tuple[str, OpenAI, Service]) -> None:
    _, client, _ = service
    answer = client.chat.completions.create(model="", messages=ask(call_text("look", {"at": "left"}))).choices[0]
    assert answer.message.tool_calls is None and "left" in (answer.message.content or "")
    with pytest.raises(BadRequestError, match="tool_choice"):
        client.chat.completions.create(model="", messages=ask("x"), tool_choice="required")
