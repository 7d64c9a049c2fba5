"""What the doctor says of a turn: which of three things happened, and where."""

from __future__ import annotations

import pytest

from tokenwell.chat.conversation import Conversation, Message, ToolCall
from tokenwell.service.cache_doctor import CacheDoctor, Turn


def tokens(conversation: Conversation) -> list[int]:
    """A token a character, tools first, as a template would put them."""
    text = str(conversation.tools) + "".join(f"|{m.role}:{m.content}{m.tool_calls}" for m in conversation.messages)
    return list(map(ord, text))


def examine(doctor: CacheDoctor, *messages: Message, tools: tuple[dict[str, str], ...] = ()) -> Turn:
    conversation = Conversation(messages, tools)
    return doctor.examine(conversation, tokens(conversation))


SYSTEM = Message("system", "You are an agent. " * 10)
ASK = Message("user", "Read the file.")
CALL = Message("assistant", tool_calls=(ToolCall("1", "read", '{"path": "a"}'),))
RESULT = Message("tool", "text", tool_call_id="1")


def test_a_turn_that_goes_on() -> None:
    doctor = CacheDoctor()
    first = examine(doctor, SYSTEM, ASK)
    assert (first.before, first.verdict(None), first.verdict(0)) == (0, None, f"reused 0 of {first.tokens}")
    second = examine(doctor, SYSTEM, ASK, CALL, RESULT)
    assert second.change is None and second.before == first.tokens == second.common
    assert second.verdict(None) is None
    assert second.verdict(first.tokens) == f"reused {first.tokens} of {second.tokens}"


@pytest.mark.parametrize(
    ("messages", "tools", "told"),
    [
        ((Message("system", "Now: you are"), ASK), (), 'message 0 (system), character 0: "You are an agent.'),
        ((Message("system", "You are no agent"), ASK), (), 'message 0 (system), character 8: "You are an agent.'),
        ((SYSTEM, ASK), ({"name": "x"},), "the tools, character 0: "),
        ((ASK,), (), "message 0 (user) was a message of system"),
    ],
)
def test_a_changed_prompt(messages: tuple[Message, ...], tools: tuple[dict[str, str], ...], told: str) -> None:
    doctor = CacheDoctor()
    examine(doctor, SYSTEM, ASK)
    turn = examine(doctor, *messages, tools=tools)
    verdict = turn.verdict(None)
    assert verdict is not None and verdict.startswith(f"prompt changed: {told}")
    assert turn.lost(0)


def test_both_sides_are_shown_and_short() -> None:
    doctor = CacheDoctor()
    examine(doctor, Message("system", "a" * 50 + "OLD" + "b" * 500), Message("user", "x"))
    turn = examine(doctor, Message("system", "a" * 50 + "NEW" + "c" * 500), Message("user", "x"))
    assert turn.change is not None and "character 50" in turn.change
    assert "OLD" in turn.change and "NEW" in turn.change and len(turn.change) < 200


def test_evicted_and_not_resumable_are_told_apart() -> None:
    turn = Turn(tokens=100, before=80, common=80)
    assert str(turn.verdict(10, 10)).startswith("evicted")
    assert str(turn.verdict(10, 80)).startswith("state not resumable: 80")
    assert turn.verdict(40, 80) == "reused 40 of 100"
    assert turn.lost(39) and not turn.lost(40)


def test_a_changed_prompt_that_another_one_was_like() -> None:
    assert Turn(100, 80, 10, "message 0").verdict(90) == "reused 90 of 100"


def test_other_conversations_are_not_compared() -> None:
    doctor = CacheDoctor()
    examine(doctor, SYSTEM, ASK)
    assert examine(doctor, SYSTEM, Message("user", "Something else.")).before == 0
    other = examine(doctor, SYSTEM, ASK, CALL, RESULT)
    assert other.before > 0


@pytest.mark.parametrize("title_first", [True, False])
def test_the_title_of_a_conversation_is_no_turn_of_it(title_first: bool) -> None:
    doctor = CacheDoctor()
    requests: list[tuple[tuple[Message, ...], tuple[dict[str, str], ...]]] = [
        ((Message("system", "You write titles."), Message("user", "A title for this:"), ASK), ()),
        ((SYSTEM, ASK), ({"name": "read"},)),
    ]
    for messages, tools in requests if title_first else reversed(requests):
        assert examine(doctor, *messages, tools=tools).before == 0
    assert examine(doctor, SYSTEM, ASK, CALL, RESULT, tools=({"name": "read"},)).before == len(
        tokens(Conversation((SYSTEM, ASK), ({"name": "read"},)))
    )


def test_a_rendering_that_differs_though_no_message_does() -> None:
    doctor = CacheDoctor()
    conversation = Conversation((ASK,))
    doctor.examine(conversation, [1, 2, 3, 4])
    assert "chat template" in str(doctor.examine(conversation, [9, 2, 3, 4]).change)


def test_memory_is_bounded() -> None:
    doctor = CacheDoctor(most_prompts=2, most_bytes=2000)
    for number in range(3):
        examine(doctor, Message("user", f"conversation {number}"))
    assert examine(doctor, Message("user", "conversation 0"), RESULT).before == 0
    assert examine(doctor, Message("user", "conversation 2"), RESULT).before > 0
    examine(doctor, Message("user", "x" * 5000))
    assert examine(doctor, Message("user", "x" * 5000)).before == 0
