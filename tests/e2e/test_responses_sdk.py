"""The unmodified openai SDK against the Responses dialect, over a real socket, with an engine that says what it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.api.responses.strict import check_events, check_response
from tests.fakes.checkpoint import write_checkpoint
from tests.fakes.running import Running

HERMES = {"chat_format": "hermes"}
READ: Any = {
    "type": "function",
    "name": "read",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    "strict": False,
}
TOOLS: list[Any] = [
    {"type": "namespace", "name": "mcp__fs", "description": "Files.", "tools": [READ]},
    {"type": "custom", "name": "patch"},
    {"type": "web_search"},
]
ANSWER = (
    "Let me look.<tool_call>\n"
    '{"name": "mcp__fs__read", "arguments": {"path": "a"}}\n</tool_call>\n<tool_call>\n'
    '{"name": "patch", "arguments": {"input": "é\\n\\"x\\""}}\n</tool_call>'
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@contextmanager
def serving(checkpoint: Path, folder: Path, script: str, *engine: str, **more: Any) -> Iterator[tuple[Running, openai.OpenAI]]:
    """A gateway whose every answer is `script`, and a client of it."""
    folder.mkdir(exist_ok=True)
    arguments = ("--script", script, "--max-model-len", "2048", *engine)
    with Running(checkpoint, folder, *arguments, model=HERMES, **more) as running:
        running.ready()
        with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as client:
            yield running, client


@pytest.fixture(scope="module")
def talking(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, openai.OpenAI]]:
    with serving(checkpoint, tmp_path_factory.mktemp("talking"), "Hello world") as both:
        yield both


@pytest.fixture(scope="module")
def calling(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, openai.OpenAI]]:
    with serving(checkpoint, tmp_path_factory.mktemp("calling"), ANSWER) as both:
        yield both


def raw_events(running: Running, **fields: Any) -> list[Any]:
    """The events of one stream as they are on the wire; their names stand on lines of their own too."""
    text = running.client.post("/v1/responses", json={"stream": True, **fields}).text
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def test_create_retrieve_continue_delete(talking: tuple[Running, openai.OpenAI]) -> None:
    running, client = talking
    first = client.responses.create(model="fake", input="hi", instructions="be kind", metadata={"a": "b"})
    assert first.output_text == "Hello world" and first.status == "completed" and first.instructions == "be kind"
    check_response(running.client.get(f"/v1/responses/{first.id}").json())
    assert client.responses.retrieve(first.id) == first
    second = client.responses.create(model="fake", input="and?", previous_response_id=first.id)
    assert second.usage is not None and first.usage is not None and second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.total_tokens - 20
    items: list[Any] = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.role for item in items] == ["user", "assistant", "user"] and items[1].id == first.output[0].id
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="fake", input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    assert client.responses.create(model="fake", input="x", previous_response_id=second.id).status == "completed"


def test_what_is_not_stored_is_not_there(talking: tuple[Running, openai.OpenAI]) -> None:
    _, client = talking
    answer = client.responses.create(model="fake", input="hi", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_tokens_are_counted(talking: tuple[Running, openai.OpenAI]) -> None:
    _, client = talking
    answer = client.responses.create(model="fake", input="hi there", tools=[READ])
    counted = client.responses.input_tokens.count(model="fake", input="hi there", tools=[READ])
    assert answer.usage is not None and counted.input_tokens == answer.usage.input_tokens


def test_streams_hold_to_the_types(talking: tuple[Running, openai.OpenAI], calling: tuple[Running, openai.OpenAI]) -> None:
    check_events(raw_events(talking[0], input="hi"))
    check_events(raw_events(calling[0], input="hi", tools=TOOLS))
    check_events(raw_events(calling[0], input="hi", tools=TOOLS, max_output_tokens=60))


def test_the_stream_helper_reads_text(talking: tuple[Running, openai.OpenAI]) -> None:
    _, client = talking
    with client.responses.stream(model="fake", input="hi") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "Hello world"
    assert client.responses.retrieve(final.id).output_text == "Hello world"


def test_tools_and_their_results(calling: tuple[Running, openai.OpenAI]) -> None:
    running, client = calling
    with client.responses.stream(model="fake", input="go", tools=TOOLS) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    message, call, patch = final.output
    assert message.type == "message" and final.output_text == "Let me look."
    assert call.type == "function_call" and (call.name, call.namespace, call.arguments) == ("read", "mcp__fs", '{"path": "a"}')
    assert patch.type == "custom_tool_call" and (patch.name, patch.input) == ("patch", 'é\n"x"')
    outputs: list[Any] = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "fine"},
        {"type": "custom_tool_call_output", "call_id": patch.call_id, "output": [{"type": "input_text", "text": "fine"}]},
    ]
    stored = client.responses.create(model="fake", input=outputs, previous_response_id=final.id, tools=TOOLS)
    output: list[Any] = running.client.get(f"/v1/responses/{final.id}").json()["output"]
    sent = client.responses.create(
        model="fake", input=[{"role": "user", "content": "go"}, *output, *outputs], tools=TOOLS, store=False
    )
    referred: list[Any] = [{"type": "item_reference", "id": item["id"]} for item in output]
    named = client.responses.create(model="fake", input=[{"role": "user", "content": "go"}, *referred, *outputs], tools=TOOLS)
    assert stored.usage and sent.usage and named.usage
    assert stored.usage.input_tokens == sent.usage.input_tokens == named.usage.input_tokens


def test_whole_and_streamed_are_the_same(calling: tuple[Running, openai.OpenAI]) -> None:
    running, client = calling
    streamed = raw_events(running, input="go", tools=TOOLS)[-1]["response"]["output"]
    answer = client.responses.create(model="fake", input="go", tools=TOOLS)
    whole = running.client.get(f"/v1/responses/{answer.id}").json()["output"]

    def without_ids(items: Any) -> Any:
        return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]

    assert without_ids(whole) == without_ids(streamed)


def test_without_tools_nothing_is_a_call(calling: tuple[Running, openai.OpenAI]) -> None:
    _, client = calling
    answer = client.responses.create(model="fake", input="go", tools=TOOLS, tool_choice="none")
    assert [item.type for item in answer.output] == ["message"] and "mcp__fs__read" in answer.output_text


def test_skipped_tools_are_said_in_a_header(calling: tuple[Running, openai.OpenAI]) -> None:
    _, client = calling
    answer = client.responses.with_raw_response.create(model="fake", input="go", tools=TOOLS)
    assert "web_search was skipped" in answer.headers["x-tokenwell-warning"]


def test_cut_off(calling: tuple[Running, openai.OpenAI]) -> None:
    _, client = calling
    answer = client.responses.create(model="fake", input="go", tools=TOOLS, max_output_tokens=60)
    assert answer.status == "incomplete" and answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    call: Any = answer.output[-1]
    assert call.type == "function_call" and call.status == "incomplete"


def test_a_stream_is_cancelled_from_another_connection(checkpoint: Path, tmp_path: Path) -> None:
    with serving(checkpoint, tmp_path / "slow", "Hello world " * 60, "--rate", "20") as (running, client):
        seen: list[Any] = []
        with client.responses.create(model="fake", input="hi", stream=True) as stream:
            for event in stream:
                seen.append(event)
                if event.type == "response.output_text.delta" and len(seen) < 8:
                    id = seen[0].response.id
                    assert client.responses.retrieve(id).status == "in_progress"
                    cancelled = client.responses.cancel(id)
                    assert cancelled.status == "cancelled"
        check_events([event.to_dict() for event in seen])
        assert seen[-1].response.status == "cancelled" and seen[-1].response.output == cancelled.output
        assert client.responses.retrieve(id) == cancelled == client.responses.cancel(id)
        running.until(lambda: running.diary("abort"))


def test_a_stored_stream_whose_client_leaves_is_cancelled(checkpoint: Path, tmp_path: Path) -> None:
    with serving(checkpoint, tmp_path / "slow", "Hello world " * 60, "--rate", "20") as (running, client):
        with client.responses.create(model="fake", input="hi", stream=True) as stream:
            created: Any = next(iter(stream))
        running.until(lambda: running.diary("abort"))
        running.until(lambda: client.responses.retrieve(created.response.id).status == "cancelled")


def test_silence_is_filled_with_counted_events(checkpoint: Path, tmp_path: Path) -> None:
    quiet = {"server": {"keep_alive_s": 0.1}}
    with serving(checkpoint, tmp_path / "quiet", "Hello", "--prefill-s", "0.5", **quiet) as (running, _):
        events = raw_events(running, input="hi")
        check_events(events)
        assert sum(event["type"] == "response.in_progress" for event in events) >= 3


def test_a_lost_stream_ends_with_failed(checkpoint: Path, tmp_path: Path) -> None:
    with serving(checkpoint, tmp_path / "lost", "Hello world", "--error-after", "2") as (running, client):
        events = raw_events(running, input="hi")
        check_events(events)
        response = events[-1]["response"]
        assert events[-1]["type"] == "response.failed" and response["error"]["code"] == "server_error"
        assert client.responses.retrieve(response["id"]).status == "failed"
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="fake", input="hi")


def test_responses_survive_a_restart(checkpoint: Path, tmp_path: Path) -> None:
    state = {"store": {"folder": str(tmp_path / "state")}}
    with serving(checkpoint, tmp_path / "first", "Hello", **state) as (_, client):
        id = client.responses.create(model="fake", input="hi").id
    with serving(checkpoint, tmp_path / "second", "Hello", **state) as (_, client):
        assert client.responses.retrieve(id).output_text == "Hello"
        assert client.responses.create(model="fake", input="hi", previous_response_id=id).status == "completed"


def test_parsed_answers(checkpoint: Path, tmp_path: Path) -> None:
    class Place(BaseModel):
        city: str

    with serving(checkpoint, tmp_path / "parse", '{"city": "Bonn"}') as (_, client):
        answer = client.responses.parse(model="fake", input="where", text_format=Place)
        assert answer.output_parsed == Place(city="Bonn")
