"""Small changes to messages that templates refuse or lose, in the order in which they are applied.

Each repair is a pure function of the turns that leaves alone whatever does not need it, and changes each turn by what is
before or beside it only: a longer conversation begins with the same text, and the prefix cache holds. Which repairs a
template needs is for `abilities` to find out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from tokenwell.chat.template import Turn
from tokenwell.chat.turns import REASONING_NAMES

_INSTRUCTIONS = ("system", "developer")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Repair:
    """A change with the words in which it is reported."""

    name: str
    apply: Callable[[list[Turn]], list[Turn]]


def _joined(*texts: str | None) -> str:
    return "\n\n".join(text for text in texts if text)


def _leading(turns: list[Turn]) -> int:
    """How many system and developer turns the conversation begins with."""
    return next((place for place, turn in enumerate(turns) if turn["role"] not in _INSTRUCTIONS), len(turns))


def _developer_as_system(turns: list[Turn]) -> list[Turn]:
    return [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in turns]


def _later_developer_as_system(turns: list[Turn]) -> list[Turn]:
    """For templates that know developer as the first message: anywhere else they print the word and no model knows it."""
    return [*turns[:1], *_developer_as_system(turns[1:])]


def _leading_merged(turns: list[Turn]) -> list[Turn]:
    count = _leading(turns)
    if count < 2:
        return turns
    return [turns[0] | {"content": _joined(*(turn["content"] for turn in turns[:count]))}, *turns[count:]]


def _later_as_user(turns: list[Turn]) -> list[Turn]:
    """In place and marked: moved to the front it would change the start of the prompt, and the cache would be lost."""
    count = _leading(turns)
    later = [
        turn | {"role": "user", "content": f"<system>\n{turn['content']}\n</system>"} if turn["role"] in _INSTRUCTIONS else turn
        for turn in turns[count:]
    ]
    return [*turns[:count], *later]


def _leading_as_user(turns: list[Turn]) -> list[Turn]:
    count = _leading(turns)
    return [*(turn | {"role": "user"} for turn in turns[:count]), *turns[count:]]


def _tools_as_text(turns: list[Turn]) -> list[Turn]:
    """Calls and results written out, for templates that have no place for them."""
    result = []
    for turn in turns:
        if turn["role"] == "tool":
            turn = {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
        elif "tool_calls" in turn:
            calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn["tool_calls"]]
            text = _joined(turn["content"], "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls))
            turn = {key: value for key, value in turn.items() if key != "tool_calls"} | {"content": text}
        result.append(turn)
    return result


def _with_arguments(turns: list[Turn], change: Callable[[object], object]) -> list[Turn]:
    def changed(call: Turn) -> Turn:
        function = call["function"]
        return call | {"function": function | {"arguments": change(function["arguments"])}}

    return [
        turn | {"tool_calls": [changed(call) for call in turn["tool_calls"]]} if "tool_calls" in turn else turn for turn in turns
    ]


def _arguments_as_text(turns: list[Turn]) -> list[Turn]:
    return _with_arguments(turns, lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _arguments_as_object(turns: list[Turn]) -> list[Turn]:
    return _with_arguments(turns, lambda value: {"arguments": value} if isinstance(value, str) else value)


def _no_content_beside_calls(turns: list[Turn]) -> list[Turn]:
    return [turn | {"content": None} if "tool_calls" in turn and not turn["content"] else turn for turn in turns]


def _calls_one_by_one(turns: list[Turn]) -> list[Turn]:
    """Each of several calls in a turn of its own with its result behind it; text and reasoning stay with the first."""
    result: list[Turn] = []
    place = 0
    while place < len(turns):
        turn = turns[place]
        place += 1
        calls = turn.get("tool_calls", ())
        if len(calls) < 2:
            result.append(turn)
            continue
        end = place
        while end < len(turns) and turns[end]["role"] == "tool":
            end += 1
        answers = turns[place:end]
        for call in calls:
            result.append(turn | {"tool_calls": [call]})
            mine = next((answer for answer in answers if answer.get("tool_call_id") == call["id"]), None)
            if mine is not None:
                answers.remove(mine)
                result.append(mine)
            turn = {"role": "assistant", "content": ""}
        result += answers  # those that answer no call, or a call twice
        place = end
    return result


def _short(id: str) -> str:
    """Nine letters and digits, the same for the same id; an id that already is so stays."""
    if _SHORT_ID.fullmatch(id):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest())
    return "".join(_DIGITS[number // 62**place % 62] for place in range(9))


def _short_call_ids(turns: list[Turn]) -> list[Turn]:
    result = []
    for turn in turns:
        if "tool_calls" in turn:
            turn = turn | {"tool_calls": [call | {"id": _short(call["id"])} for call in turn["tool_calls"]]}
        if turn["role"] == "tool":
            turn = turn | {"tool_call_id": _short(turn.get("tool_call_id", ""))}
        result.append(turn)
    return result


def _text_into_reasoning(turns: list[Turn]) -> list[Turn]:
    """For templates with room for one of the two beside a call (gpt-oss)."""
    result = []
    for turn in turns:
        if "tool_calls" in turn and turn["content"] and REASONING_NAMES[0] in turn:
            text = _joined(turn[REASONING_NAMES[0]], turn["content"])
            turn = turn | {"content": ""} | dict.fromkeys(REASONING_NAMES, text)
        result.append(turn)
    return result


def _text_before_calls(turns: list[Turn]) -> list[Turn]:
    """Text, and the reasoning that led to it, in a turn of its own, for templates that print only the calls of a turn."""
    result = []
    for turn in turns:
        if "tool_calls" in turn and "tool_responses" not in turn and turn["content"]:  # with responses, the text answers them
            result.append({key: value for key, value in turn.items() if key != "tool_calls"})
            turn = {"role": "assistant", "content": "", "tool_calls": turn["tool_calls"]}
        result.append(turn)
    return result


def _some_user(turns: list[Turn]) -> list[Turn]:
    """An empty user turn after the instructions when no user speaks at all."""
    if any(turn["role"] == "user" for turn in turns):
        return turns
    count = _leading(turns)
    return [*turns[:count], {"role": "user", "content": ""}, *turns[count:]]


def _responses_beside_calls(turns: list[Turn]) -> list[Turn]:
    """Results in the turn of their calls (Gemma 4's own shape), and the answer behind them in the same turn."""
    result: list[Turn] = []
    for turn in _text_before_calls(turns):
        last = result[-1] if result else {}
        if turn["role"] == "tool" and "tool_calls" in last and not last["content"]:
            response = {"name": turn.get("name", "unknown"), "response": turn["content"]}
            result[-1] = last | {"tool_responses": [*last.get("tool_responses", ()), response]}
        elif turn["role"] == "assistant" and "tool_calls" not in turn and "tool_responses" in last and not last["content"]:
            result[-1] = last | {"content": turn["content"]}
        else:
            result.append(turn)
    return result


def _user_first(turns: list[Turn]) -> list[Turn]:
    """An empty user turn after the instructions when someone else speaks first."""
    count = _leading(turns)
    if count == len(turns) or turns[count]["role"] == "user":
        return turns
    return [*turns[:count], {"role": "user", "content": ""}, *turns[count:]]


def _results_closed(turns: list[Turn]) -> list[Turn]:
    """An empty answer where a user speaks right after tool results."""
    result: list[Turn] = []
    for turn in turns:
        if turn["role"] == "user" and result and result[-1]["role"] == "tool":
            result.append({"role": "assistant", "content": ""})
        result.append(turn)
    return result


def _merged(turns: list[Turn], role: str) -> list[Turn]:
    result: list[Turn] = []
    for turn in turns:
        if result and turn["role"] == role == result[-1]["role"]:
            result[-1] = _union(result[-1], turn)
        else:
            result.append(turn)
    return result


def _union(first: Turn, second: Turn) -> Turn:
    both = first | second | {"content": _joined(first["content"], second["content"])}
    if "tool_calls" in first and "tool_calls" in second:
        both["tool_calls"] = [*first["tool_calls"], *second["tool_calls"]]
    if REASONING_NAMES[0] in first and REASONING_NAMES[0] in second:
        both |= dict.fromkeys(REASONING_NAMES, _joined(first[REASONING_NAMES[0]], second[REASONING_NAMES[0]]))
    return both


DEVELOPER_AS_SYSTEM = Repair("developer becomes system", _developer_as_system)
LATER_DEVELOPER_AS_SYSTEM = Repair("developer becomes system where it is not the first message", _later_developer_as_system)
LEADING_MERGED = Repair("system messages at the start become one", _leading_merged)
LATER_AS_USER = Repair("later system messages become marked user messages in place", _later_as_user)
LEADING_AS_USER = Repair("the system message becomes a user message", _leading_as_user)
TOOLS_AS_TEXT = Repair("tool calls and results are written as text", _tools_as_text)
ARGUMENTS_AS_TEXT = Repair("arguments of tool calls are given as JSON text", _arguments_as_text)
ARGUMENTS_AS_OBJECT = Repair("unreadable arguments of tool calls are wrapped in an object", _arguments_as_object)
NO_CONTENT_BESIDE_CALLS = Repair("empty content beside tool calls is none", _no_content_beside_calls)
CALLS_ONE_BY_ONE = Repair("parallel tool calls become one call a message", _calls_one_by_one)
SHORT_CALL_IDS = Repair("ids of tool calls become nine letters and digits", _short_call_ids)
TEXT_INTO_REASONING = Repair("text beside tool calls joins the reasoning", _text_into_reasoning)
TEXT_BEFORE_CALLS = Repair("text beside tool calls becomes a message before them", _text_before_calls)
RESPONSES_BESIDE_CALLS = Repair("tool results join the message with their calls", _responses_beside_calls)
SOME_USER = Repair("an empty user message is added where there is none", _some_user)
USER_FIRST = Repair("an empty user message opens the conversation", _user_first)
RESULTS_CLOSED = Repair("an empty answer closes tool results before a user message", _results_closed)
USERS_MERGED = Repair("consecutive user messages become one", lambda turns: _merged(turns, "user"))
ASSISTANTS_MERGED = Repair("consecutive assistant messages become one", lambda turns: _merged(turns, "assistant"))

# The order matters: what one repair makes, a later one may have to merge.
ORDER = (
    DEVELOPER_AS_SYSTEM,
    LATER_DEVELOPER_AS_SYSTEM,
    LEADING_MERGED,
    LATER_AS_USER,
    LEADING_AS_USER,
    TOOLS_AS_TEXT,
    CALLS_ONE_BY_ONE,
    SOME_USER,
    USER_FIRST,
    RESULTS_CLOSED,
    USERS_MERGED,
    ASSISTANTS_MERGED,
    TEXT_INTO_REASONING,
    TEXT_BEFORE_CALLS,
    ARGUMENTS_AS_OBJECT,
    ARGUMENTS_AS_TEXT,
    SHORT_CALL_IDS,
    NO_CONTENT_BESIDE_CALLS,
    RESPONSES_BESIDE_CALLS,
)

# From the smallest change to the largest: the order in which they are tried on a conversation that is refused.
BY_SIZE = (
    SOME_USER,
    USER_FIRST,
    RESULTS_CLOSED,
    USERS_MERGED,
    ASSISTANTS_MERGED,
    SHORT_CALL_IDS,
    ARGUMENTS_AS_OBJECT,
    ARGUMENTS_AS_TEXT,
    NO_CONTENT_BESIDE_CALLS,
    TEXT_INTO_REASONING,
    TEXT_BEFORE_CALLS,
    CALLS_ONE_BY_ONE,
    DEVELOPER_AS_SYSTEM,
    LEADING_MERGED,
    LATER_AS_USER,
    LEADING_AS_USER,
    TOOLS_AS_TEXT,
)


def apply(turns: Iterable[Turn], repairs: Collection[Repair]) -> list[Turn]:
    """The turns with these repairs, in their order."""
    result = list(turns)
    for repair in ORDER:
        if repair in repairs:
            result = repair.apply(result)
    return result
