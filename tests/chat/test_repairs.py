"""Repairs one by one, and what holds for all of them."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.chat import repairs
from tokenwell.chat.conversation import Message, ToolCall
from tokenwell.chat.repairs import ORDER, Repair, apply
from tokenwell.chat.template import Turn
from tokenwell.chat.turns import turns_of


def user(content: str) -> Turn:
    return {"role": "user", "content": content}


def assistant(content: str) -> Turn:
    return {"role": "assistant", "content": content}


def system(content: str) -> Turn:
    return {"role": "system", "content": content}


def calls(*ids: str, content: str = "", reasoning: str | None = None) -> Message:
    made = tuple(ToolCall(id, f"f_{id}", '{"a": "é"}') for id in ids)
    return Message("assistant", content, reasoning=reasoning, tool_calls=made)


def result(id: str | None) -> Message:
    return Message("tool", f"r_{id}", tool_call_id=id)


CASES: list[tuple[Repair, list[Turn], list[Turn]]] = [
    (repairs.DEVELOPER_AS_SYSTEM, [{"role": "developer", "content": "d"}, user("u")], [system("d"), user("u")]),
    (repairs.LEADING_MERGED, [system("a"), system(""), system("b"), user("u")], [system("a\n\nb"), user("u")]),
    (
        repairs.LATER_AS_USER,
        [system("a"), user("u"), system("b")],
        [system("a"), user("u"), user("<system>\nb\n</system>")],
    ),
    (repairs.LEADING_AS_USER, [system("a"), user("u"), system("b")], [user("a"), user("u"), system("b")]),
    (repairs.USER_FIRST, [system("a"), assistant("b")], [system("a"), user(""), assistant("b")]),
    (repairs.USER_FIRST, [system("a")], [system("a")]),
    (repairs.SOME_USER, [system("a")], [system("a"), user("")]),
    (repairs.SOME_USER, [system("a"), assistant("b")], [system("a"), user(""), assistant("b")]),
    (repairs.SOME_USER, [assistant("b"), user("c")], [assistant("b"), user("c")]),
    (repairs.USERS_MERGED, [user("a"), user(""), user("b"), assistant("c")], [user("a\n\nb"), assistant("c")]),
    (repairs.ASSISTANTS_MERGED, [user("a"), assistant("b"), assistant("c")], [user("a"), assistant("b\n\nc")]),
]


@pytest.mark.parametrize(("repair", "before", "after"), CASES)
def test_repair(repair: Repair, before: list[Turn], after: list[Turn]) -> None:
    assert repair.apply(before) == after


def test_tools_as_text() -> None:
    turns = repairs.TOOLS_AS_TEXT.apply(turns_of([calls("1", "2", content="hm"), result("1")]))
    one = '<tool_call>\n{"name": "f_1", "arguments": {"a": "é"}}\n</tool_call>'
    assert turns[0] == assistant(f"hm\n\n{one}\n{one.replace('f_1', 'f_2')}")
    assert turns[1] == user("<tool_response>\nr_1\n</tool_response>")


def test_calls_one_by_one_with_results_in_any_order() -> None:
    messages = [calls("1", "2", "3", content="t", reasoning="r"), result("3"), result("1"), result("9"), Message("user", "u")]
    turns = repairs.CALLS_ONE_BY_ONE.apply(turns_of(messages))
    shape = [(turn["role"], turn["content"], [call["id"] for call in turn.get("tool_calls", [])]) for turn in turns]
    assert shape == [
        ("assistant", "t", ["1"]),
        ("tool", "r_1", []),
        ("assistant", "", ["2"]),
        ("assistant", "", ["3"]),
        ("tool", "r_3", []),
        ("tool", "r_9", []),
        ("user", "u", []),
    ]
    assert [turn.get("reasoning") for turn in turns][:3] == ["r", None, None]


def test_calls_with_the_same_id_share_no_result() -> None:
    turns = repairs.CALLS_ONE_BY_ONE.apply(turns_of([calls("1", "1"), result("1"), result("1")]))
    assert [turn["role"] for turn in turns] == ["assistant", "tool", "assistant", "tool"]


def test_short_ids_match_and_keep_those_that_are_short() -> None:
    turns = repairs.SHORT_CALL_IDS.apply(
        turns_of([calls("call_abc-def", "aB3456789"), result("call_abc-def"), result("aB3456789")])
    )
    first, second = (call["id"] for call in turns[0]["tool_calls"])
    assert len(first) == 9 and first.isalnum() and first.isascii()
    assert second == "aB3456789"
    assert [turn["tool_call_id"] for turn in turns[1:]] == [first, second]


def test_arguments() -> None:
    turns = turns_of([Message("assistant", tool_calls=(ToolCall("1", "f", '{"a":1}'), ToolCall("2", "g", "bad")))])
    text = repairs.ARGUMENTS_AS_TEXT.apply(turns)[0]["tool_calls"]
    assert [call["function"]["arguments"] for call in text] == ['{"a": 1}', "bad"]
    wrapped = repairs.ARGUMENTS_AS_OBJECT.apply(turns)[0]["tool_calls"]
    assert [call["function"]["arguments"] for call in wrapped] == [{"a": 1}, {"arguments": "bad"}]


def test_content_beside_calls() -> None:
    turns = turns_of([calls("1"), calls("2", content="t"), Message("assistant", "")])
    assert [turn["content"] for turn in repairs.NO_CONTENT_BESIDE_CALLS.apply(turns)] == [None, "t", ""]
    (joined,) = repairs.TEXT_INTO_REASONING.apply(turns_of([calls("1", content="t", reasoning="r")]))
    assert (joined["content"], joined["thinking"]) == ("", "r\n\nt")
    text, call = repairs.TEXT_BEFORE_CALLS.apply(turns_of([calls("1", content="t", reasoning="r")]))
    assert (text["content"], text["thinking"], "tool_calls" in text) == ("t", "r", False)
    assert (call["content"], "thinking" in call, len(call["tool_calls"])) == ("", False, 1)


def test_an_interrupted_tool_loop_is_closed() -> None:
    turns = repairs.RESULTS_CLOSED.apply(turns_of([calls("1"), result("1"), Message("user", "wait")]))
    assert [turn["role"] for turn in turns] == ["assistant", "tool", "assistant", "user"]


def test_merged_assistants_keep_calls_and_reasoning() -> None:
    (turn,) = repairs.ASSISTANTS_MERGED.apply(turns_of([calls("1", content="a", reasoning="x"), calls("2", reasoning="y")]))
    assert [call["id"] for call in turn["tool_calls"]] == ["1", "2"]
    assert (turn["content"], turn["reasoning"]) == ("a", "x\n\ny")


def test_every_repair_has_a_place_in_both_orders() -> None:
    assert len(set(ORDER)) == len(ORDER)
    # These two are for what templates print wrongly without refusing it.
    assert set(ORDER) - set(repairs.BY_SIZE) == {repairs.LATER_DEVELOPER_AS_SYSTEM, repairs.RESPONSES_BESIDE_CALLS}


MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        content=st.sampled_from(["", "a", "b c"]),
        reasoning=st.sampled_from([None, "r"]),
        tool_calls=st.lists(
            st.builds(ToolCall, st.sampled_from("xyz"), st.just("f"), st.sampled_from(["{}", "", "no"])), max_size=2
        ).map(tuple),
        tool_call_id=st.sampled_from([None, "x", "y", "w"]),
    ),
    max_size=8,
)


@given(MESSAGES)
def test_repairs_change_nothing_they_are_given_and_are_done_once(messages: list[Message]) -> None:
    turns = turns_of(messages)
    before = deepcopy(turns)
    for repair in ORDER:
        once = repair.apply(turns)
        assert turns == before
        if repair is not repairs.LATER_AS_USER:
            assert repair.apply(once) == once


@given(MESSAGES, st.sets(st.sampled_from(ORDER)))
def test_no_text_is_lost(messages: list[Message], chosen: set[Repair]) -> None:
    messages = [
        Message(message.role, f"<{number}>", message.reasoning, message.tool_calls) for number, message in enumerate(messages)
    ]
    text = str(apply(turns_of(messages), chosen))
    assert all(f"<{number}>" in text for number in range(len(messages)))
