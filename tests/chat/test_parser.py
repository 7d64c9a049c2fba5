"""The machine for any input: it never raises, never depends on how text was cut, and complete calls are valid JSON."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.chat.goldens import STANDARD_TOOLS, answer, joined, replayer

from tokenwell.chat.events import Event
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.parser import Parser

WORDS = ["{", "}", "[", "]", "(", ")", ",", ":", "=", '"', "'", "\\", "\n", " ", "`", "```", "a", "1", "null", "True", "é"]
WORDS += ["get_weather", "city", '{"name": "', '"arguments": ', '{"city": "Paris"}', "call:", "<function=", "<parameter=", ">"]
WORDS += [
    "</parameter>",
    "</function>",
    "assistant",
    " to=functions.ping",
    "thought\n",
    "commentary",
    "analysis",
    "\\u00",
    "-",
    ".",
]


def read(format: str, visible: bool, pieces: list[str], *, reasoning: bool, cut: bool) -> tuple[list[Event], bool]:
    bound = replayer(format, "visible" if visible else "special").model.format
    parser = Parser(bound, STANDARD_TOOLS, reasoning, "id")
    events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish(cut)
    return joined(events), parser.called


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data(), reasoning=st.booleans(), cut=st.booleans(), seed=st.integers(0, 2**16))
def test_anything_reads_the_same_however_it_is_cut(
    format: str, visible: bool, data: st.DataObject, reasoning: bool, cut: bool, seed: int
) -> None:
    bound = replayer(format, "visible" if visible else "special").model.format
    marks = [bound.marks.get(mark, mark) for mark in FORMATS[format].marks]
    text = "".join(data.draw(st.lists(st.sampled_from([*marks, *marks, *WORDS]) | st.text(max_size=5), max_size=30)))
    whole = read(format, visible, [text], reasoning=reasoning, cut=cut)
    assert read(format, visible, list(text), reasoning=reasoning, cut=cut) == whole
    random = Random(seed)
    places = sorted(random.sample(range(len(text) + 1), min(len(text), 4)))
    pieces = [text[start:stop] for start, stop in pairwise([0, *places, len(text)])]
    assert read(format, visible, pieces, reasoning=reasoning, cut=cut) == whole
    for call in answer(whole[0]).calls:
        if call.complete:
            json.loads(call.arguments)


@example("[")
@example("<")
@given(st.sampled_from(["{", "[", '{"a":', "`", "<tool_call>", '"', "\\", " ", "<function=", "<parameter=a>"]))
def test_depth_and_repetition_are_no_danger(unit: str) -> None:
    for head in ("", '<tool_call>\n{"name": "ping", "arguments": ', "<tool_call>\n<function=ping>\n"):
        for format in ("hermes", "qwen_xml"):
            answer(read(format, True, [head + unit * 5000], reasoning=False, cut=False)[0])


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "harmony"])  # whose calls are messages
def test_a_name_and_a_closing_mark_are_a_call_without_arguments(format: str, visible: bool) -> None:
    """However it is cut: half of the closing mark is not known to be one yet."""
    bound = replayer(format, "visible" if visible else "special").model.format
    for lead in bound.reading.leads:
        for closer in lead.closers[:1]:
            text = "".join(word for _, word in lead.opener) + "ping" + closer
            for pieces in ([text], list(text), [text[:-1], text[-1:]]):
                events, called = read(format, visible, pieces, reasoning=False, cut=False)
                [call] = answer(events).calls
                assert called and (call.name, call.arguments, call.complete) == ("ping", "{}", True), pieces
            ended, _ = read(format, visible, [text[:-1]], reasoning=False, cut=True)
            assert not any(call.complete for call in answer(ended).calls)
