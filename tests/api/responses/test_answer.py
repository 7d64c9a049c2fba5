"""Events to items and stream events: the same answer twice, in the SDK's own types."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.responses.strict import check_events, check_response, joined

from tokenwell.api.errors import ApiError
from tokenwell.api.responses import envelope
from tokenwell.api.responses.answer import Answer, response_of_item
from tokenwell.api.responses.envelope import Envelope
from tokenwell.api.responses.requests import CreateRequest
from tokenwell.api.responses.sealed import seal, unseal
from tokenwell.api.responses.toolbox import toolbox
from tokenwell.chat.defaults import Defaults
from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart
from tokenwell.service.generation import Usage

STEM = "0123456789abcdef"
TOOLS: list[Any] = [
    {"type": "function", "name": "read", "parameters": {"type": "object"}, "strict": False},
    {"type": "namespace", "name": "mcp__fs", "description": "files", "tools": [{"type": "function", "name": "list"}]},
    {"type": "custom", "name": "apply_patch"},
]
EVENTS: list[Event] = [
    Reasoning("let me "),
    Reasoning("look"),
    Content("I will "),
    Content("look."),
    ToolStart(0, "call_a", "read"),
    ToolArguments(0, '{"path": '),
    ToolArguments(0, '"a"}'),
    ToolEnd(0),
    ToolStart(1, "call_b", "mcp__fs__list"),
    ToolArguments(1, "{}"),
    ToolEnd(1),
    ToolStart(2, "call_c", "apply_patch"),
    ToolArguments(2, '{"input": "*** Begin\\n'),
    ToolArguments(2, '\\u00e9\\"'),
    ToolArguments(2, '"}'),
    ToolEnd(2),
]


class Model:
    """What an envelope asks a model."""

    defaults = Defaults()


def make(**fields: Any) -> Answer:
    wanted = msgspec.convert({"input": "hi", "tools": TOOLS, **fields}, CreateRequest)
    model: Any = Model()
    around = Envelope(wanted, "m", model, True).around
    options = wanted.reasoning
    return Answer(
        STEM,
        toolbox(wanted.tools),
        lambda answer: around(answer, Usage(10, 5, 3, 2)),
        summarised=options is not None and options.summary is not None,
        sealed=bool(wanted.include),
    )


def run(answer: Answer, events: list[Event], finish: str) -> list[Any]:
    return [*answer.begin(), *answer.feed(events), *answer.end(finish)]


def test_a_whole_answer() -> None:
    answer = make()
    events = run(answer, EVENTS, "tool_calls")
    check_events(events)
    response = answer.response()
    check_response(response)
    assert response["status"] == "completed" and response["incomplete_details"] is None
    thought, message, read, listed, patch = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "let me look"}]
    assert thought["summary"] == [] and "encrypted_content" not in thought
    assert message["content"][0]["text"] == "I will look."
    assert (read["call_id"], read["name"], read["arguments"]) == ("call_a", "read", '{"path": "a"}') and "namespace" not in read
    assert (listed["name"], listed["namespace"], listed["arguments"]) == ("list", "mcp__fs", "{}")
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", '*** Begin\né"')
    assert all(item["status"] == "completed" for item in response["output"])
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }
    assert [item["id"].split("_")[0] for item in response["output"]] == ["rs", "msg", "fc", "fc", "ctc"]
    assert {response_of_item(item["id"]) for item in response["output"]} == {response["id"]}


def test_the_documented_order() -> None:
    types = [event["type"].removeprefix("response.") for event in run(make(), [*EVENTS[:3], *EVENTS[4:8]], "tool_calls")]
    assert types == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


def test_done_names_the_function_and_deltas_concatenate() -> None:
    events = run(make(), EVENTS, "tool_calls")
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [(event["name"], event["arguments"]) for event in done] == [("read", '{"path": "a"}'), ("list", "{}")]
    for event in done:
        assert joined(events, "response.function_call_arguments.delta", event["output_index"]) == event["arguments"]
    [custom] = [event for event in events if event["type"] == "response.custom_tool_call_input.done"]
    assert joined(events, "response.custom_tool_call_input.delta", custom["output_index"]) == custom["input"] == '*** Begin\né"'


def test_a_summary_only_when_asked_for() -> None:
    assert not [event for event in run(make(), EVENTS, "stop") if "summary" in event["type"]]
    answer = make(reasoning={"summary": "auto"})
    events = run(answer, EVENTS[:3], "stop")
    check_events(events)
    assert joined(events, "response.reasoning_summary_text.delta", 0) == "let me look"
    assert answer.output()[0]["summary"] == [{"type": "summary_text", "text": "let me look"}]


def test_sealed_thoughts_open_again() -> None:
    answer = make(include=["reasoning.encrypted_content"])
    check_events(run(answer, EVENTS, "stop"))
    assert unseal(answer.output()[0]["encrypted_content"]) == "let me look"


@pytest.mark.parametrize("sealed", [None, "", "gAAAAAB", "tokenwell1.!", "tokenwell1./w==", "tokenwell1.é"])
def test_what_others_sealed_is_ignored(sealed: str | None) -> None:
    assert unseal(sealed) is None
    assert unseal(seal("é")) == "é" and unseal(seal("")) == ""


@pytest.mark.parametrize("cut", range(1, len(EVENTS)))
def test_cut_anywhere(cut: int) -> None:
    answer = make()
    events = run(answer, EVENTS[:cut], "length")
    check_events(events)
    response = answer.response()
    check_response(response)
    assert response["status"] == "incomplete" and response["incomplete_details"] == {"reason": "max_output_tokens"}
    open_call = cut in (5, 6, 7, 9, 10, 12, 13, 14, 15)
    statuses = [item["status"] for item in response["output"]]
    assert statuses[:-1] == ["completed"] * (len(statuses) - 1)
    if open_call or cut <= 4:
        assert statuses[-1] == "incomplete"
    dones = [event["type"] for event in events if event["type"].endswith(("arguments.done", "input.done"))]
    whole = sum(isinstance(event, ToolEnd) for event in EVENTS[:cut])
    assert len(dones) == whole, "half a call is never told as done"


@pytest.mark.parametrize(("half", "field", "text"), [((4, 6), "arguments", '{"path": '), ((11, 14), "input", '*** Begin\né"')])
def test_half_a_call_is_never_handed_over(half: tuple[int, int], field: str, text: str) -> None:
    answer = make()
    events = run(answer, EVENTS[slice(*half)], "length")
    assert not [event for event in events if event["type"] == "response.output_item.done"]
    [item] = answer.output()
    assert item["status"] == "incomplete" and item[field] == text


@pytest.mark.parametrize("cut", range(len(EVENTS)))
def test_failed(cut: int) -> None:
    answer = make()
    told = [*answer.begin(), *answer.feed(EVENTS[:cut])]
    events = [*told, *answer.fail(ApiError(503, "lost", code="engine_failed"))]
    check_events(events)
    assert len(events) == len(told) + 1, "what is open is not told as done: a client that asks again must not keep it"
    response = events[-1]["response"]
    check_response(response)
    assert response["status"] == "failed" and response["error"] == {"code": "server_error", "message": "lost"}
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item for item in response["output"] if item["status"] == "completed"] == done
    assert {item["status"] for item in response["output"]} <= {"completed", "incomplete"}


def test_cancelled() -> None:
    answer = make()
    events = [*answer.begin(), *answer.feed(EVENTS[:6]), *answer.end("cancelled")]
    check_events(events)
    assert answer.status == "cancelled" and events[-1]["type"] == "response.incomplete"
    check_response(answer.response())


def test_keep_alives_are_counted_and_snapshots_are_valid() -> None:
    answer = make(reasoning={"effort": "high", "summary": "detailed"}, text={"format": {"type": "json_object"}})
    events = answer.begin()
    for event in EVENTS:
        events += answer.feed([event])
        events.append(answer.keep_alive())
        check_response(answer.response())
    check_events([*events, *answer.end("tool_calls")])


def test_an_answer_without_anything() -> None:
    answer = make()
    check_events(run(answer, [], "stop"))
    assert check_response(answer.response()).output_text == ""


@given(st.lists(st.integers(0, 3), max_size=8), st.data())
def test_any_cutting_gives_the_same_items(sizes: list[int], data: st.DataObject) -> None:
    whole, pieces = make(), make()
    whole.feed(EVENTS)
    fed: list[Any] = []
    for event in EVENTS:
        if isinstance(event, ToolArguments):
            middle = data.draw(st.integers(0, len(event.text)))
            fed += pieces.feed([ToolArguments(event.index, event.text[:middle]), ToolArguments(event.index, event.text[middle:])])
        else:
            fed += pieces.feed([event])
    whole.end("stop")
    pieces.end("stop")
    assert whole.output() == pieces.output()


@pytest.mark.parametrize(
    "fields",
    [
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}}},
        {"tool_choice": {"type": "function", "name": "read"}},
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "read"}]}},
        {"metadata": {"a": "b"}, "service_tier": "flex", "prompt_cache_key": "k", "user": "u", "safety_identifier": "s"},
        {"reasoning": {"effort": "nonsense", "summary": "nonsense"}, "service_tier": "nonsense", "text": {"verbosity": "x"}},
        {"temperature": 0, "top_p": 1, "max_output_tokens": 5, "parallel_tool_calls": False, "truncation": "auto"},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}, {"type": "web_search"}]},
    ],
)
def test_what_was_asked_for_is_told_back_in_the_types(fields: Any) -> None:
    answer = make(**fields)
    check_events(run(answer, EVENTS[:4], "stop"))


def test_a_response_tells_the_same_whenever_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count(1_700_000_000)
    monkeypatch.setattr(
        envelope, "time", SimpleNamespace(time=lambda: next(seconds))
    )  # every look at the clock is a second later
    answer = make()
    *_, last = run(answer, EVENTS, "tool_calls")
    assert answer.response() == last["response"] == answer.response()
    assert last["response"]["completed_at"] > last["response"]["created_at"]
