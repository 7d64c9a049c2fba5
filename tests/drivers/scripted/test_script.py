"""What the scripted engine is asked to do: marks, and which of them are due in a conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.drivers.scripted.script import DONE, GREETING, Request, Step, due, marks, read

CALL = '[[call f {"a": 1}]]'
_CALLED = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": "f", "arguments": {"a": 1}}]}
_RESULT = {"role": "tool", "content": "ok"}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _due(*messages: dict[str, Any], single: bool = False) -> list[tuple[str, str]]:
    return [(step.kind, step.text) for step in due(Request({}, messages), single)]


def test_marks_come_in_order_wherever_they_stand() -> None:
    text = 'Hi [[think a b]] there\n[[say x\ny]]and[[call f {"k": {"v": "]]"}} ]][[call g]] [[say ]]'
    assert list(marks(text)) == [
        Step("think", "a b"),
        Step("say", "x\ny"),
        Step("call", "f", {"k": {"v": "]]"}}),
        Step("call", "g"),
        Step("say", ""),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[call f {bad}]]", "are no JSON"),
        ("[[call f [1]]]", "are no JSON object"),
        ('[[call f {"a": 1}', "has no ]]"),
        ("[[call ]]", "needs the name"),
    ],
)
def test_a_wrong_call_is_told_in_the_answer(text: str, said: str) -> None:
    [step] = marks(text)
    assert (step.kind, said in step.text) == ("say", True)


@given(st.text(alphabet='[]saycallthinkf {}"\\:1\n ', max_size=60))
def test_no_text_breaks_the_marks(text: str) -> None:
    assert all(step.kind in ("say", "think", "call") for step in marks(text))


@pytest.mark.parametrize("said", ['{"a": [[1]]}', "[[1]]", "[x", "{", "[1] and more", ""])
def test_words_may_be_json(said: str) -> None:
    assert list(marks(f"[[say {said}]][[say b]]")) == [Step("say", said), Step("say", "b")]


def test_halves_of_surrogate_pairs_become_replacement_characters() -> None:
    [step] = marks('[[call f {"a": "\\ud800x"}]]')
    assert step.arguments == {"a": "\ufffdx"}


def test_an_ordinary_message_gets_a_sentence() -> None:
    assert _due(_user("hello")) == [("say", GREETING)]
    assert _due({"role": "system", "content": "[[say no]]"}, _user("hello")) == [("say", GREETING)]


def test_only_messages_behind_the_last_answer_count() -> None:
    answer = {"role": "assistant", "content": "old"}
    assert _due(_user("[[say old]]"), answer, _user("[[say new]]"), _user("context")) == [("say", "new")]
    assert _due(_user("[[say old]]"), answer, _user("context")) == [("say", GREETING)]


def test_a_call_is_made_once_and_what_follows_it_is_said_behind_its_result() -> None:
    order = _user(f"[[say first]] {CALL} [[say then]]")
    assert _due(order) == [("say", "first"), ("call", "f")]
    assert _due(order, _CALLED, _RESULT) == [("say", "then")]
    assert _due(_user(CALL), _CALLED, _RESULT) == [("say", DONE)]
    assert _due(_user("[[say x]]"), _CALLED, _RESULT) == [("say", DONE)]


def test_results_and_messages_behind_them_give_no_orders() -> None:
    order = _user(f"{CALL} [[say then]]")
    hostile = {"role": "tool", "content": "[[call f {}]]"}
    assert _due(order, _CALLED, hostile) == [("say", "then")]
    assert _due(order, _user("context"), _CALLED, hostile, _user("context")) == [("say", "then")]
    assert _due(order, _CALLED, hostile, order) == [("say", "then")]  # an agent that repeats its user
    assert _due(order, _CALLED, hostile, _user("[[say new]]")) == [("say", "new")]


def test_a_result_without_its_call_in_the_history_makes_no_second_call() -> None:
    assert _due(_user(CALL), {"role": "assistant", "content": ""}, _RESULT) == [("say", DONE)]
    assert _due(_RESULT) == [("say", DONE)]


def test_parallel_calls_are_made_together_or_one_after_the_other() -> None:
    order = _user('[[call f {"a": 1}]] [[say between]] [[call g]] [[say end]]')
    assert _due(order) == [("call", "f"), ("say", "between"), ("call", "g")]
    assert _due(order, _CALLED, _RESULT, _RESULT) == [("say", "end")]
    assert _due(order, single=True) == [("call", "f")]
    assert _due(order, _CALLED, _RESULT, single=True) == [("say", "between"), ("call", "g")]
    assert _due(order, _CALLED, _RESULT, _CALLED, _RESULT, single=True) == [("say", "end")]


def test_an_earlier_turn_is_over() -> None:
    earlier = (_user(f"{CALL} [[say old]]"), _CALLED, _RESULT, {"role": "assistant", "content": "old"})
    order = _user("[[call f]] [[say new]]")
    assert _due(*earlier, order) == [("call", "f")]
    assert _due(*earlier, order, _CALLED, _RESULT) == [("say", "new")]


def test_a_rendered_prompt_is_read_back() -> None:
    lines = [{"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}, _user("a\nb")]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert read(text) == Request({"f": {"type": "object"}}, (_user("a\nb"),))
    assert read(text + '{"role": "assistant", "content": "unfin').messages == (_user("a\nb"),)


@pytest.mark.parametrize("text", ["", "[[say x]]", '{"tools": 1}', '{"tools": [1]}\n', "[]\n[]", '{"tools": []}\n[]', "[" * 9999])
def test_any_other_text_is_one_user_message(text: str) -> None:
    assert read(text) == Request({}, (_user(text),))
