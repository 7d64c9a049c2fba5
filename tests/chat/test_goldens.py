"""Golden transcripts: what answers of every chat format become, however they are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from tests.chat.goldens import ALSO_VISIBLE, Called, Golden, Marks, Replayer, answer, goldens, replayer

from tokenwell.chat.events import Event
from tokenwell.chat.formats import FORMATS

# What a parser may hold back of arguments that were cut off: the beginning of an end mark, of an escape or of a word.
HELD_BACK = 12


def _cases() -> list[Any]:
    return [
        pytest.param(golden, marks, id=f"{format}-{golden.name}-{marks}")
        for format in FORMATS
        for golden in goldens(format)
        for marks in (("special", "visible") if format in ALSO_VISIBLE else ("special",))
        if golden.only in (None, marks)
    ]


@pytest.mark.parametrize(("golden", "marks"), _cases())
def test_golden(golden: Golden, marks: Marks) -> None:
    replay = replayer(golden.format, marks)
    text = replay.text(golden.output)
    whole, called = replay.read(golden, [text])
    check(golden, whole, called)
    same(replay, golden, text, (whole, called))


def same(replay: Replayer, golden: Golden, text: str, expected: tuple[list[Event], bool]) -> None:
    """Every other way of cutting the answer gives the same."""
    assert replay.read(golden, text) == expected, "by character"
    for place in range(1, len(text)):
        assert replay.read(golden, [text[:place], text[place:]]) == expected, f"split in {text[:place]!r} and {text[place:]!r}"
    ids = replay.ids(golden.output)
    assert replay.read_ids(golden, [ids]) == expected, "all tokens at once"
    assert replay.read_ids(golden, [[id] for id in ids]) == expected, "by token"
    random = Random(golden.name)
    for _ in range(8):
        places = sorted(random.sample(range(len(ids) + 1), min(len(ids), random.randint(1, 12))))
        groups = [ids[start:stop] for start, stop in pairwise([0, *places, len(ids)])]
        assert replay.read_ids(golden, groups) == expected, f"tokens in groups that end at {places}"
        places = sorted(random.sample(range(len(text) + 1), min(len(text), random.randint(2, 12))))
        pieces = [text[start:stop] for start, stop in pairwise([0, *places, len(text)])]
        assert replay.read(golden, pieces) == expected, f"text in pieces {pieces!r}"


def check(golden: Golden, events: list[Event], called: bool) -> None:
    """The events are what the golden expects."""
    got, expect = answer(events), golden.expect
    assert got.reasoning == expect["reasoning"]
    assert got.content == expect["content"]
    if "called" in expect:
        assert called is expect["called"]
    if "order" in expect:
        assert got.order == expect["order"]
    assert len({call.id for call in got.calls}) == len(got.calls)
    if "calls" in expect:
        assert [call.name for call in got.calls] == [call["name"] for call in expect["calls"]]
        for call, wanted in zip(got.calls, expect["calls"], strict=True):
            check_call(call, wanted)


def check_call(call: Called, wanted: dict[str, Any]) -> None:
    """A complete call has these arguments; one that was cut off has all of `raw` but what may be held back."""
    assert call.complete is wanted["complete"]
    if not call.complete:
        assert wanted["raw"].startswith(call.arguments)
        assert len(wanted["raw"]) - len(call.arguments) <= HELD_BACK
        return
    # As texts: True is not 1 and 1.0 is not 1 here, and the order of keys is the model's.
    assert json.dumps(json.loads(call.arguments)) == json.dumps(wanted["arguments"])
    if "raw" in wanted:
        assert call.arguments == wanted["raw"]


@pytest.mark.parametrize("format", FORMATS)
def test_there_are_enough_goldens(format: str) -> None:
    names = [golden.name for golden in goldens(format)]
    assert len(names) >= (12 if format == "plain" else 25)
    assert len(set(names)) == len(names)
