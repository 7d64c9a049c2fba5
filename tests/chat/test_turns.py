"""Messages in the shape that templates read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.chat.conversation import Message, ToolCall
from tokenwell.chat.turns import arguments_of, transcript, turns_of


def test_plain_messages_have_role_and_content_only() -> None:
    assert turns_of([Message("system", "s"), Message("user", "u"), Message("assistant", "a", reasoning="")]) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]


def test_reasoning_is_given_under_every_name_that_templates_read() -> None:
    (turn,) = turns_of([Message("assistant", "a", reasoning=" t\n")])
    assert turn["reasoning_content"] == turn["reasoning"] == turn["thinking"] == " t\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": {"b": [1, 2.5, null, true]}}', {"a": {"b": [1, 2.5, None, True]}}),
        ("", {}),
        ("  \n", {}),
        ("{}", {}),
        ("not json", "not json"),
        ('{"a": 1', '{"a": 1'),
        ("[1]", "[1]"),
        ("null", "null"),
        ("3", "3"),
        ("[" * 100_000, "[" * 100_000),
        ('{"a": ' + "9" * 5000 + "}", '{"a": ' + "9" * 5000 + "}"),
    ],
)
def test_arguments_become_an_object_when_they_are_one(text: str, value: object) -> None:
    assert arguments_of(text) == value


@given(st.text())
def test_arguments_never_raise(text: str) -> None:
    assert isinstance(arguments_of(text), dict | str)


def test_results_find_their_call() -> None:
    calls = (ToolCall("x", "first", "{}"), ToolCall("y", "second", "{}"))
    turns = turns_of(
        [
            Message("assistant", tool_calls=calls),
            Message("tool", "2", tool_call_id="y"),
            Message("tool", "1"),
            Message("tool", "?", tool_call_id="z"),
            Message("tool", "none left"),
            Message("assistant", tool_calls=(ToolCall("x", "third", "{}"),)),
            Message("tool", "3", tool_call_id="x", name="given"),
            Message("tool", "4", tool_call_id="x"),
        ]
    )
    found = [(turn.get("tool_call_id"), turn.get("name")) for turn in turns if turn["role"] == "tool"]
    assert found == [("y", "second"), ("x", "first"), ("z", None), (None, None), ("x", "given"), ("x", "third")]


def test_transcript() -> None:
    turns = turns_of([Message("system", "s"), Message("user", "u")])
    assert transcript(turns, True) == "system: s\n\nuser: u\n\nassistant:"
    assert transcript(turns, False) == "system: s\n\nuser: u"
