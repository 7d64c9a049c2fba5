"""What holds for every answer in every chat format, whatever a model generates."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chat.goldens import ALSO_VISIBLE, STANDARD_TOOLS, Marks, answer, goldens, joined, replayer

from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.parser import Parser

KINDS = [
    (format, marks) for format in FORMATS for marks in ("special", "visible") if marks == "special" or format in ALSO_VISIBLE
]
# What decides anything in one of the formats, and what surrounds it.
SYNTAX = [
    *("{", "}", "[", "]", "(", ")", ",", ":", ";", "=", '"', "'", "`", "```", "\\", "<", ">", "</", "|", "\n", " ", "\n\n"),
    *("null", "None", "True", "false", "NaN", "-1", "1.5e3", "0", '"a"', "'b'", "{}", "[]", '{"city": "x"}', "city", "city="),
    *("get_weather", "ping", "call:", "call:ping{}", "functions.", " to=functions.ping", "json", "code", "function", "thought\n"),
    *("analysis", "commentary", "final", "assistant", '{"name": "', '", "arguments": ', '", "parameters": ', '"ping"'),
    *("<function=", "<function=ping>", "</function>", "<parameter=", "<parameter=city>\n", "\n</parameter>\n", "<tool_call>"),
    *("</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "é", "🙂", "\x00", "\\u00", "\ud7ff", "\ufeff"),
]
PROSE = st.text(alphabet="abc XYZ.,:;!?-+*/=()'#%&$€üß日本🙂\n\t0123456789", max_size=60)


@st.composite
def outputs(draw: st.DrawFn, format: str, marks: Marks) -> str:
    """Anything: marks, pieces of syntax, pieces of real answers and arbitrary text."""
    replay = replayer(format, marks)
    texts = [replay.text(golden.output) for golden in goldens(format)]
    piece = st.one_of(
        st.sampled_from([*replay.model.format.marks.values(), *FORMATS[format].marks, *SYNTAX]),
        st.sampled_from(SYNTAX),
        st.sampled_from(texts).flatmap(_part),
        st.text(max_size=8),
    )
    return "".join(draw(st.lists(piece, max_size=14)))


def _part(text: str) -> st.SearchStrategy[str]:
    """A piece of an answer, of at most 80 characters."""
    return st.integers(0, len(text)).flatmap(lambda start: st.integers(0, 80).map(lambda length: text[start : start + length]))


def cuts(text: str) -> st.SearchStrategy[list[str]]:
    """The text in pieces."""
    places = st.lists(st.integers(0, len(text)), max_size=8).map(sorted)
    return places.map(lambda at: [text[start:stop] for start, stop in zip([0, *at], [*at, len(text)], strict=True)])


def run(parser: Parser, pieces: list[str], cut: bool) -> list[Event]:
    """All events of an answer."""
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish(cut)


def words(event: Event) -> str:
    """The event's text."""
    match event:
        case Content(text) | Reasoning(text) | ToolArguments(_, text) | ToolStart(_, _, text):
            return text
        case ToolEnd():
            return ""


@pytest.mark.parametrize(("format", "marks"), KINDS)
@settings(max_examples=120)
@given(data=st.data(), tools=st.booleans(), reasoning=st.booleans(), cut=st.booleans())
def test_any_answer_is_read(format: str, marks: Marks, data: st.DataObject, tools: bool, reasoning: bool, cut: bool) -> None:
    """Nothing raises; however it is cut the events are the same, well-formed, and free of the parser's own characters."""
    bound = replayer(format, marks).model.format
    text = data.draw(outputs(format, marks))

    def parser() -> Parser:
        return Parser(bound, STANDARD_TOOLS if tools else (), reasoning, "id")

    first, second, third = parser(), parser(), parser()
    events = run(first, [text], cut)
    assert first.finish(cut) == [] == first.finish(not cut), "a second finish gives nothing"
    assert joined(run(second, data.draw(cuts(text)), cut)) == joined(events)
    assert joined(run(third, list(text), cut)) == joined(events)
    assert first.called is second.called is third.called
    assert all(words(event) for event in events if not isinstance(event, ToolEnd)), "no event is empty"
    assert not any(character in words(event) for event in events for character in bound.marks.values())
    got = answer(events)
    assert tools or not got.calls, "nothing is a call without tools"
    assert first.called is (bool(got.calls) and all(call.complete for call in got.calls))
    assert cut or all(call.complete for call in got.calls), "an answer that the model ended has no open call"
    assert all(call.complete for call in got.calls[:-1]), "only the last call can have been cut off"
    for call in got.calls:
        if call.complete:
            assert isinstance(json.loads(call.arguments, parse_constant=_no_constant), dict)


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


# In harmony every text stands behind a header.
@pytest.mark.parametrize(("format", "marks"), [kind for kind in KINDS if kind[0] != "harmony"])
@settings(max_examples=50)
@given(text=PROSE, tools=st.booleans(), data=st.data())
def test_prose_comes_out_unchanged(format: str, marks: Marks, text: str, tools: bool, data: st.DataObject) -> None:
    parser = Parser(replayer(format, marks).model.format, STANDARD_TOOLS if tools else (), False, "id")
    assert joined(run(parser, data.draw(cuts(text)), False)) == ([Content(text)] if text else [])


@settings(max_examples=60)
@given(text=PROSE, tools=st.booleans(), data=st.data())
def test_prose_of_a_final_message_comes_out_unchanged(text: str, tools: bool, data: st.DataObject) -> None:
    bound = replayer("harmony", "special").model.format
    parser = Parser(bound, STANDARD_TOOLS if tools else (), False, "id")
    parser.feed(bound.spelled("<|channel|>final<|message|>"))
    assert joined(run(parser, data.draw(cuts(text)), False)) == ([Content(text)] if text else [])


@pytest.mark.parametrize(("format", "marks"), KINDS)
def test_call_ids_are_those_of_the_answer(format: str, marks: Marks) -> None:
    """The same for a replay, others for another answer, and no two alike."""
    replay = replayer(format, marks)
    bound, ids = replay.model.format, []
    for golden in goldens(format):
        if golden.only not in (None, marks) or not golden.expect.get("calls"):
            continue
        for id in ("one", "one", "two"):
            parser = Parser(bound, golden.tools, golden.reasoning, id)
            ids.append([call.id for call in answer(run(parser, [replay.text(golden.output)], golden.cut)).calls])
        first, again, other = ids[-3:]
        assert first == again and not {*first} & {*other} and len({*first}) == len(first)


ODD_PARAMETERS = [
    None,
    True,
    {},
    [],
    "x",
    {"type": "object"},
    {"properties": None},
    {"properties": {"city": None}},
    {"required": 3},
]
ODD_PARAMETERS += [
    {"properties": {"city": schema}} for schema in (True, [], {"type": 3}, {"type": []}, {"anyOf": None}, {"enum": 1})
]
ODD_PARAMETERS += [{"$ref": "#"}, {"properties": {"city": {"$ref": "#/properties/city"}}}, {"allOf": [{"$ref": "#"}]}]


@pytest.mark.parametrize("format", FORMATS)
def test_odd_tool_definitions_do_not_matter(format: str) -> None:
    """A schema that is none takes nothing away from a call."""
    replay = replayer(format, "special")
    output = next((golden.output for golden in goldens(format) if golden.name == "single_call"), ())
    for parameters in ODD_PARAMETERS:
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
        parser = Parser(replay.model.format, [tool], False, "id")
        calls = answer(run(parser, [replay.text(output)], False)).calls
        assert [json.loads(call.arguments) for call in calls] == ([{"city": "Paris"}] if output else [])
        run(Parser(replay.model.format, [tool], True, "id"), [replay.text(output)], False)


@pytest.mark.parametrize(
    ("format", "unit", "reasoning"),
    [
        ("qwen_xml", "<tool_call><function=ping><parameter=a></think><think>", True),
        ("hermes", '<tool_call>{"name":"ping","arguments":{"a":\'</think><think>', True),
        ("hermes", "<tool_call>", False),
        ("hermes", '<tool_call>{"name": ', True),
        ("hermes", "<tool_call>[", False),
        ("qwen_xml", "<function=ping>\n", False),
        ("llama3", "[", False),
        ("gemma4", "<|tool_call>call:ping{a:", False),
    ],
)
def test_work_grows_no_faster_than_the_answer(format: str, unit: str, reasoning: bool) -> None:
    """Four times as much of what looks like calls takes four times as many steps, counted as calls of Python functions."""
    bound = replayer(format, "visible" if format in ALSO_VISIBLE else "special").model.format

    def steps(times: int) -> int:
        text, count = bound.spelled(unit) * times, 0

        def called(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event == "call"

        parser = Parser(bound, STANDARD_TOOLS, reasoning, "id")
        before = sys.getprofile()
        sys.setprofile(called)
        try:
            run(parser, [text[start : start + 40] for start in range(0, len(text), 40)], False)
        finally:
            sys.setprofile(before)
        return count

    assert steps(400) < 6 * steps(100)
