"""What Chat, Messages and Responses do alike, each in its own words: calls that are cut, stopped or lost, and what is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from tests.fakes.running import Running
from tests.waiting import PATIENCE_S

ARGUMENTS = '{"path": "the quick brown fox"}'
CALL = '<tool_call>\n{"name": "read", "arguments": ' + ARGUMENTS + "}\n</tool_call>"
SCRIPT = f"Let me look.\n{CALL}\n{CALL}"
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
HALF = 66  # tokens: the first call is being written
HERMES = {"chat_format": "hermes"}


@dataclass(frozen=True)
class Told:
    """An answer in no dialect: arguments by id of the calls that are told as done, and of those that are not; how it ended."""

    calls: dict[str, str]
    unfinished: list[str]
    text: str
    finish: str | None  # None: with an error


@dataclass(frozen=True)
class Dialect:
    """How to ask with one tool and one message, and how to read what comes."""

    path: str
    body: Callable[..., dict[str, Any]]
    whole: Callable[[Any], Told]
    streamed: Callable[[list[Any]], Told]
    counting: str | None = None


def chat_body(text: str = "go", schema: Any = SCHEMA, max_tokens: int = 300, system: str = "", **more: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "read", "parameters": schema}}
    instructions = [{"role": "system", "content": system}] if system else []
    messages = [*instructions, {"role": "user", "content": text}]
    return {"messages": messages, "tools": [tool], "max_tokens": max_tokens, **more}


def messages_body(text: str = "go", schema: Any = SCHEMA, max_tokens: int = 300, system: str = "", **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "tools": [{"name": "read", "input_schema": schema}]}
    return body | {"max_tokens": max_tokens, "system": system} | more


def responses_body(
    text: str = "go", schema: Any = SCHEMA, max_tokens: int = 300, system: str = "", **more: Any
) -> dict[str, Any]:
    tool = {"type": "function", "name": "read", "parameters": schema}
    return {"input": text, "tools": [tool], "max_output_tokens": max_tokens, "instructions": system, **more}


def chat_whole(answer: Any, index: int = 0) -> Told:
    choice = answer["choices"][index]
    message, finish = choice["message"], choice["finish_reason"]
    calls = {call["id"]: call["function"]["arguments"] for call in message.get("tool_calls", ())}
    text = message["content"] or ""
    return Told(calls, [], text, finish) if finish == "tool_calls" else told_by_json(calls, text, finish)


def chat_streamed(events: list[Any], index: int = 0) -> Told:
    """Chat does not say that a call is done; the finish reason does, or a next call."""
    calls: dict[int, list[str]] = {}
    text, finish = "", None
    for choice in (choice for event in events for choice in event.get("choices", ()) if choice["index"] == index):
        text += choice["delta"].get("content") or ""
        finish = choice["finish_reason"] or finish
        for call in choice["delta"].get("tool_calls", ()):
            known = calls.setdefault(call["index"], [call.get("id"), ""])
            assert known[0] == call.get("id", known[0])
            known[1] += call["function"]["arguments"]
    byid = dict(calls.values())
    return Told(byid, [], text, finish) if finish == "tool_calls" else told_by_json(byid, text, finish)


def told_by_json(calls: dict[str, str], text: str, finish: str | None) -> Told:
    done = {id: arguments for id, arguments in calls.items() if arguments == ARGUMENTS}
    return Told(done, [arguments for id, arguments in calls.items() if id not in done], text, finish)


def messages_whole(answer: Any) -> Told:
    blocks = answer["content"]
    calls = {block["id"]: json.dumps(block["input"]) for block in blocks if block["type"] == "tool_use"}
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    done = {id: arguments for id, arguments in calls.items() if arguments != "{}"}
    return Told(done, [arguments for id, arguments in calls.items() if id not in done], text, answer["stop_reason"])


def messages_streamed(events: list[Any]) -> Told:
    ids: dict[int, str] = {}
    arguments: dict[int, str] = {}
    text, finish = "", None
    for event in events:
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use":
            ids[event["index"]], arguments[event["index"]] = event["content_block"]["id"], ""
        elif event["type"] == "content_block_delta":
            text += event["delta"].get("text", "")
            if "partial_json" in event["delta"]:
                arguments[event["index"]] += event["delta"]["partial_json"]
        elif event["type"] == "message_delta":
            finish = event["delta"]["stop_reason"]
    done = {ids[index]: arguments[index] for index in ids if arguments[index] == ARGUMENTS}
    return Told(done, [arguments[index] for index in ids if ids[index] not in done], text, finish)


def responses_whole(answer: Any) -> Told:
    calls = [item for item in answer["output"] if item["type"] == "function_call"]
    text = "".join(item["content"][0]["text"] for item in answer["output"] if item["type"] == "message")
    done = {item["call_id"]: item["arguments"] for item in calls if item["status"] == "completed"}
    return Told(done, [item["arguments"] for item in calls if item["status"] != "completed"], text, answer["status"])


def responses_streamed(events: list[Any]) -> Told:
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    calls = {item["call_id"]: item["arguments"] for item in done if item["type"] == "function_call"}
    last = events[-1]["response"]
    told = responses_whole(last)
    assert calls == told.calls, "what was told as done is what the response holds as done"
    return told if last["status"] != "failed" else Told(told.calls, told.unfinished, told.text, None)


DIALECTS = {
    "chat": Dialect("/v1/chat/completions", chat_body, chat_whole, chat_streamed),
    "messages": Dialect(
        "/v1/messages", messages_body, messages_whole, messages_streamed, "/v1/messages/count_tokens"
    ),
    "responses": Dialect("/v1/responses", responses_body, responses_whole, responses_streamed, "/v1/responses/input_tokens"),
}  # fmt: skip


@pytest.fixture(params=list(DIALECTS.values()), ids=list(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture(scope="module")
def agent(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Every answer says something and calls twice, a few tokens at a time."""
    flags = ("--script", SCRIPT, "--burst", "3", "--max-model-len", "2048", "--max-num-seqs", "64")
    with Running(checkpoint, tmp_path_factory.mktemp("agent"), *flags, model=HERMES) as running:
        yield running.ready()


def events_of(text: str) -> list[Any]:
    """The events of a stream."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def both(running: Running, dialect: Dialect, **fields: Any) -> tuple[Any, list[Any]]:
    """The answer whole and streamed."""
    whole = running.client.post(dialect.path, json=dialect.body(**fields))
    assert whole.status_code == 200, whole.text
    stream = running.client.post(dialect.path, json=dialect.body(**fields, stream=True))
    return whole.json(), events_of(stream.text)


# ------------------------------------------------------------------ how an answer ends


def test_complete_calls(agent: Running, dialect: Dialect) -> None:
    whole, events = both(agent, dialect)
    for told in (dialect.whole(whole), dialect.streamed(events)):
        assert list(told.calls.values()) == [ARGUMENTS] * 2 and not told.unfinished
        assert told.finish in ("tool_calls", "tool_use", "completed") and told.text.strip() == "Let me look."


def test_a_cut_call_is_never_told_as_done(agent: Running, dialect: Dialect) -> None:
    total = agent.client.post(DIALECTS["chat"].path, json=chat_body()).json()["usage"]["completion_tokens"]
    seen = set()
    for limit in (HALF, total - 15):
        whole, events = both(agent, dialect, max_tokens=limit)
        one, other = dialect.whole(whole), dialect.streamed(events)
        assert list(one.calls.values()) == list(other.calls.values()) and len(one.unfinished) == len(other.unfinished)
        assert one.finish == other.finish and one.finish in ("length", "max_tokens", "incomplete")
        assert set(one.calls.values()) <= {ARGUMENTS}
        seen.add((len(one.calls), len(one.unfinished)))
    assert (0, 1) in seen and (1, 1) in seen


def test_a_stop_string_inside_arguments(agent: Running, dialect: Dialect) -> None:
    if dialect.path == "/v1/responses":  # the dialect has no field for it; the service takes Chat's
        whole, events = both(agent, dialect, stop="brown")
    else:
        whole, events = both(agent, dialect, **{"stop" if "chat" in dialect.path else "stop_sequences": ["brown"]})
    one, other = dialect.whole(whole), dialect.streamed(events)
    assert not one.calls and not other.calls and one.finish == other.finish
    assert one.finish in ("stop", "stop_sequence", "completed")
    assert "fox" not in json.dumps(whole) + json.dumps(events)


@pytest.mark.parametrize("fault", ["--error-after", "--die-after"])
def test_an_engine_lost_inside_a_call(checkpoint: Path, tmp_path: Path, fault: str) -> None:
    flags = ("--script", SCRIPT, "--max-model-len", "2048", "--rate", "150", fault, str(HALF))
    seen_open = 0
    with Running(checkpoint, tmp_path, *flags, model=HERMES) as running:
        for dialect in DIALECTS.values():
            running.ready()
            with running.client.stream("POST", dialect.path, json=dialect.body(stream=True)) as answer:
                assert answer.status_code == 200
                events = events_of("".join(answer.iter_text()))
            told = dialect.streamed(events)
            assert not told.calls and told.finish is None
            seen_open += len(told.unfinished)
            last = events[-1]
            assert "error" in last or last["type"] in ("error", "response.failed")
    assert 1 <= seen_open <= 3  # what a step brings together with the loss is not told any more


# ------------------------------------------------------------------ many at once


async def test_streams_of_all_dialects_at_once(agent: Running) -> None:
    names = [name for name in DIALECTS for _ in range(22)][:64]

    async def one(client: httpx2.AsyncClient, name: str, number: int) -> tuple[str, Told]:
        dialect = DIALECTS[name]
        answer = await client.post(dialect.path, json=dialect.body(text=f"number {number}", stream=True))
        return name, dialect.streamed(events_of(answer.text))

    limits = httpx2.Limits(max_connections=64)
    async with httpx2.AsyncClient(base_url=agent.url, timeout=PATIENCE_S, limits=limits) as client:
        answers = await asyncio.gather(*(one(client, name, number) for number, name in enumerate(names)))
    ids = [id for _, told in answers for id in told.calls]
    assert len(ids) == len(set(ids)) == 128
    for _, told in answers:
        assert list(told.calls.values()) == [ARGUMENTS] * 2 and told.text.strip() == "Let me look."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


pytestmark = pytest.mark.anyio


def test_two_choices_with_calls(agent: Running) -> None:
    whole, events = both(agent, DIALECTS["chat"], n=2)
    told = [chat_whole(whole, index) for index in (0, 1)] + [chat_streamed(events, index) for index in (0, 1)]
    for answer in told:
        assert list(answer.calls.values()) == [ARGUMENTS] * 2 and answer.finish == "tool_calls"
    assert len({id for answer in told for id in answer.calls}) == 8


def test_logprobs_and_usage_beside_calls(agent: Running) -> None:
    more: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
    whole = agent.client.post("/v1/chat/completions", json=chat_body(**more)).json()
    total = whole["usage"]["completion_tokens"]
    assert len(whole["choices"][0]["logprobs"]["content"]) == total
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = agent.client.post("/v1/chat/completions", json=chat_body(stream=True, stream_options=options, **more))
    events = events_of(stream.text)
    choices = [choice for event in events for choice in event["choices"]]
    assert sum(len(choice["logprobs"]["content"]) for choice in choices if choice["logprobs"]) == total
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == total
    assert list(chat_streamed(events).calls.values()) == [ARGUMENTS] * 2


# ------------------------------------------------------------------ what is told beside an answer

RELAXED = {**SCHEMA, "properties": {"path": {"type": "string", "not": {"const": "the quick brown fox"}}}}


def check_warnings(warnings: Any) -> None:
    assert any("cannot be enforced" in warning for warning in warnings), warnings
    assert sum("do not fit the schema" in warning for warning in warnings) == 2, warnings


def test_what_a_grammar_cannot_promise_is_told_at_the_end(agent: Running, dialect: Dialect) -> None:
    answer = agent.client.post(dialect.path, json=dialect.body(schema=RELAXED))
    assert "cannot be enforced" in answer.headers["x-tokenwell-warning"]
    check_warnings(answer.json()["warnings"])
    whole, _ = both(agent, dialect)
    assert "warnings" not in whole


def test_the_sdks_read_answers_with_warnings(agent: Running) -> None:
    with openai.OpenAI(base_url=agent.url + "/v1", api_key="none", max_retries=0) as sdk:
        body: Any = responses_body(schema=RELAXED)
        with sdk.responses.stream(model="fake", **body) as stream:
            final = stream.get_final_response()
        check_warnings(final.model_extra and final.model_extra["warnings"])
        stored = sdk.responses.retrieve(final.id)
        check_warnings(stored.model_extra and stored.model_extra["warnings"])
        with sdk.chat.completions.stream(model="fake", **chat_body(schema=RELAXED)) as chat:
            assert chat.get_final_completion().choices[0].finish_reason == "tool_calls"
    with anthropic.Anthropic(base_url=agent.url, api_key="none", max_retries=0) as claude:
        asked: Any = messages_body(schema=RELAXED)
        with claude.messages.stream(model="fake", **asked) as events:
            told = [event for event in events if event.type == "message_delta"]
            assert events.get_final_message().stop_reason == "tool_use"
        check_warnings(told[0].model_extra and told[0].model_extra["warnings"])


def test_raw_completions_tell_it_too(agent: Running) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": RELAXED}}
    body = {"prompt": "a", "max_tokens": 20, "response_format": form}
    answer = agent.client.post("/v1/completions", json=body)
    assert "cannot be enforced" in answer.headers["x-tokenwell-warning"]
    last = events_of(agent.client.post("/v1/completions", json=body | {"stream": True}).text)[-1]
    for warnings in (answer.json()["warnings"], last["warnings"]):
        assert "cannot be enforced" in warnings[0] and "the content is no JSON" in warnings[1]


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_lost_its_cache(agent: Running, dialect: Dialect, stream: bool) -> None:
    """The fake engine says that it cached half of every prompt, so a shorter prompt reuses too little."""

    def ask(system: str) -> tuple[str, Any]:
        text = f"{dialect.path} {stream} " + "and a question " * 10
        answer = agent.client.post(dialect.path, json=dialect.body(text=text, system=system, stream=stream))
        assert answer.status_code == 200, answer.text
        parts = events_of(answer.text) if stream else [answer.json()]
        found = [usage for part in parts if (usage := part.get("usage") or (part.get("response") or {}).get("usage"))]
        usage = found[-1]
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or usage
        return answer.headers.get("x-tokenwell-cache", ""), details.get("cache")

    assert ask("the quick brown fox " * 50)[1] is None
    header, told = ask("Short.")
    assert header.startswith("prompt changed: message 0 (system)") and told == header


# ------------------------------------------------------------------ before an answer


def test_counting_refuses_what_asking_refuses(checkpoint: Path, tmp_path: Path) -> None:
    """A template that shows no tools."""
    template = tmp_path / "plain.jinja"
    template.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    with Running(checkpoint, tmp_path, model={"chat_template": str(template), "chat_format": "plain"}) as running:
        running.ready()
        for dialect in DIALECTS.values():
            body = dialect.body()
            for path in filter(None, (dialect.path, dialect.counting)):
                answer = running.client.post(path, json=body)
                assert answer.status_code == 400 and "cannot be offered tools" in answer.text


def test_leaving_while_a_template_runs(checkpoint: Path, tmp_path: Path) -> None:
    """Nothing is queued for who left, and the gateway answers others meanwhile."""
    template = tmp_path / "slow.jinja"
    loops = "".join(f"{{% for {name} in range(250) %}}" for name in "abc") + "{% endfor %}" * 3
    slow = "{% if slow %}" + loops + "{% endif %}"
    template.write_text(slow + "{{ tools | tojson }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:")
    with Running(checkpoint, tmp_path, model={"chat_template": str(template), **HERMES}) as running:
        running.ready()

        def left(count: int) -> bool:
            return running.log().count("status=499") == count

        for count, dialect in enumerate(DIALECTS.values(), 1):
            body = dialect.body(chat_template_kwargs={"slow": True})
            body.pop("tools")
            with pytest.raises(httpx2.ReadTimeout):
                running.client.post(dialect.path, json=body, timeout=0.3)
            running.until(partial(left, count))
            assert running.health()[0] == 200
        assert not running.diary("generate") and "Traceback" not in running.log()
