"""A table's three readers agree: what is written by it is read back as it was, and is what the grammar lets a model write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chat.grammar.walks import Speaker, calls, tool

from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.format import Call
from tokenwell.chat.formats.writing import write_call
from tokenwell.chat.parser import Parser

SPELLINGS = [(format.name, call, tokens) for format in FORMATS.values() for call in format.calls for tokens in (True, False)]
NAMES = ("path", "a", "line_count", "file-name", "Mode")

# Marks that stand in texts as text are the goldens' affair: a notation without escapes cannot carry its own delimiter.
TEXT = st.text(alphabet="abc XYZ.,:;!?-+*/=()[]{}'\"\\`#%&$_€üß日本🙂\n\t0123456789", max_size=12)
NUMBERS = st.integers(-(10**12), 10**12) | st.floats(-1e6, 1e6).map(lambda number: 0.0 if math.isclose(number, 0) else number)
SIMPLE = st.one_of(TEXT, NUMBERS, st.booleans(), st.none())
KEYS = st.sampled_from(NAMES)
VALUES = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)


def schema_of(value: Any) -> dict[str, Any]:
    """The schema that allows this value's shape, and its properties in the order of the value."""
    if isinstance(value, dict):
        properties = {key: schema_of(each) for key, each in value.items()}
        return {"type": "object", "properties": properties, "required": [*value], "additionalProperties": False}
    if isinstance(value, list):
        return {"type": "array", "items": {"anyOf": [schema_of(each) for each in value]}} if value else {"type": "array"}
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    return {"type": kinds[type(value)]}


def ordered(value: Any, notation: str) -> Any:
    """The value with its keys in the order in which the notation writes them."""
    if isinstance(value, list):
        return [ordered(each, notation) for each in value]
    if not isinstance(value, dict):
        return value
    keys = sorted(value, key=str.lower) if notation == "gemma" else list(value)
    return {key: ordered(value[key], notation) for key in keys}


def texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)


@pytest.mark.parametrize(
    ("name", "call", "tokens"),
    SPELLINGS,
    ids=[f"{name}-{index // 2}-{'tokens' if tokens else 'text'}" for index, (name, _, tokens) in enumerate(SPELLINGS)],
)
@settings(max_examples=25)
@given(arguments=ARGUMENTS)
def test_what_is_written_is_read_back_and_allowed(name: str, call: Call, tokens: bool, arguments: dict[str, Any]) -> None:
    speaker = Speaker.of(name, call, marks_are_tokens=tokens)
    arguments = ordered(arguments, call.arguments)
    tools = [tool("search.web-find", schema_of(arguments))]
    bound = speaker.bound
    written = bound.spelled(call.begin) + write_call(bound, "search.web-find", arguments) + bound.spelled(call.end)
    parser = Parser(bound, tools, False, "id")
    assert [(called, json.loads(read)) for called, read in calls([*parser.feed(written), *parser.finish()])] == [
        ("search.web-find", arguments)
    ]
    assert speaker.accepts(speaker.constrain(tools).grammar, bound.shown(written)), written
