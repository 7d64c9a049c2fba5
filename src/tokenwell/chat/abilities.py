"""What a chat template can render, found out once by rendering small conversations with it.

A probe has words that must appear in its text. If the template refuses the probe or loses a word, the fewest repairs that
mend it are found and belong to the template from then on: they are applied to every conversation, so that the same
conversation always gives the same text. Knows no checkpoints and no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from tokenwell.chat import repairs
from tokenwell.chat.conversation import ChatError, Message, ToolCall
from tokenwell.chat.repairs import Repair
from tokenwell.chat.sandbox import RenderError
from tokenwell.chat.template import Template, Turn
from tokenwell.chat.turns import turns_of

_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_declared",
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "A city."}},
            "required": ["city"],
        },
    },
}


@dataclass(frozen=True)
class _Probe:
    """A conversation, the words that must appear (in this order), and the repairs that could help."""

    about: str
    messages: tuple[Message, ...]
    words: tuple[str, ...]
    candidates: tuple[Repair, ...]


@dataclass(frozen=True)
class Abilities:
    """The repairs that a template needs, what no repair mends, and whether it shows the model the tools."""

    repairs: tuple[Repair, ...] = ()
    lacking: tuple[str, ...] = ()
    reads_tools: bool = False
    broken: str | None = None  # why not even one user message renders


def _call(number: int) -> ToolCall:
    return ToolCall(id=f"call_probe_{number}", name=f"probe_call_{number}", arguments=f'{{"city": "probe_city_{number}"}}')


def _result(number: int) -> Message:
    return Message(role="tool", content=f"probe_result_{number}", tool_call_id=f"call_probe_{number}")


_FIRST = Message(role="user", content="probe_user_1")
_SECOND = Message(role="user", content="probe_user_2")
_SYSTEM = Message(role="system", content="probe_system_1")
_LATER = Message(role="system", content="probe_system_2")
_ANSWER = Message(role="assistant", content="probe_answer_1")

_BUSY = Message(role="assistant", content="probe_text", reasoning="probe_thought", tool_calls=(_call(1),))

_TOOL_REPAIRS = (
    repairs.SHORT_CALL_IDS,
    repairs.ARGUMENTS_AS_TEXT,
    repairs.NO_CONTENT_BESIDE_CALLS,
    repairs.TOOLS_AS_TEXT,
)

_PROBES = (
    _Probe("consecutive user messages", (_FIRST, _SECOND), ("probe_user_1", "probe_user_2"), (repairs.USERS_MERGED,)),
    _Probe(
        "consecutive assistant messages",
        (_FIRST, _ANSWER, Message(role="assistant", content="probe_answer_2"), _SECOND),
        ("probe_answer_1", "probe_answer_2", "probe_user_2"),
        (repairs.ASSISTANTS_MERGED,),
    ),
    _Probe("a system message", (_SYSTEM, _FIRST), ("probe_system_1", "probe_user_1"), (repairs.LEADING_AS_USER,)),
    _Probe("a system message alone", (_SYSTEM,), ("probe_system_1",), (repairs.SOME_USER,)),
    _Probe(
        "two system messages at the start",
        (_SYSTEM, _LATER, _FIRST),
        ("probe_system_1", "probe_system_2", "probe_user_1"),
        (repairs.LEADING_MERGED,),
    ),
    _Probe(
        "a later system message",
        (_SYSTEM, _FIRST, _ANSWER, _LATER, _SECOND),
        ("probe_user_1", "probe_answer_1", "probe_system_2", "probe_user_2"),
        (repairs.LATER_AS_USER,),
    ),
    _Probe(
        "tool calls",
        (_FIRST, Message(role="assistant", tool_calls=(_call(1),)), _result(1), _ANSWER, _SECOND),
        ("probe_call_1", "probe_city_1", "probe_result_1", "probe_answer_1"),
        _TOOL_REPAIRS,
    ),
    _Probe(
        "parallel tool calls",
        (_FIRST, Message(role="assistant", tool_calls=(_call(1), _call(2))), _result(1), _result(2), _ANSWER, _SECOND),
        ("probe_call_1", "probe_city_2", "probe_result_2", "probe_answer_1"),
        (repairs.CALLS_ONE_BY_ONE,),
    ),
    _Probe(
        "text and reasoning beside a tool call",
        (_FIRST, _BUSY, _result(1)),
        ("probe_call_1", "probe_result_1"),
        (repairs.TEXT_INTO_REASONING,),
    ),
    _Probe(
        "text beside a tool call", (_FIRST, _BUSY, _result(1), _ANSWER, _SECOND), ("probe_text",), (repairs.TEXT_BEFORE_CALLS,)
    ),
)
_DEVELOPER = _Probe(
    "a developer message",
    (Message(role="developer", content="probe_system_1"), _FIRST),
    ("probe_system_1", "probe_user_1"),
    (),
)


def probe(template: Template, variables: Mapping[str, Any]) -> Abilities:
    """Find out the abilities. `variables` are the special tokens that every rendering gets."""
    try:
        template.render(turns_of([_FIRST]), (), variables, True)
        shown = _text(template, [_FIRST], (), variables, (_TOOL,))
        chosen, lacking = _needed(template, variables)
    except ChatError as error:
        return Abilities(broken=str(error))
    return Abilities(chosen, lacking, reads_tools=shown is not None and "probe_declared" in shown)


def _needed(template: Template, variables: Mapping[str, Any]) -> tuple[tuple[Repair, ...], tuple[str, ...]]:
    """The repairs for all probes, and what stays impossible."""
    # Generic templates print any role's name, but a model knows only those that its template was written for.
    knows_developer = template.mentions("developer") and _passes(template, _DEVELOPER, (), variables)
    chosen: tuple[Repair, ...] = (repairs.LATER_DEVELOPER_AS_SYSTEM if knows_developer else repairs.DEVELOPER_AS_SYSTEM,)
    if template.mentions("tool_responses") and _prints_tool_role(template, variables):
        chosen = (*chosen, repairs.RESPONSES_BESIDE_CALLS)
    for each in _PROBES:
        passing = (extra for extra in _subsets(each.candidates, 4) if _passes(template, each, (*chosen, *extra), variables))
        chosen = (*chosen, *next(passing, ()))
    return chosen, tuple(each.about for each in _PROBES if not _passes(template, each, chosen, variables))


def _prints_tool_role(template: Template, variables: Mapping[str, Any]) -> bool:
    """True when a tool's turn looks like that of a role which nobody knows."""
    turns = turns_of((_FIRST, Message(role="assistant", tool_calls=(_call(1),)), _result(1)))
    try:
        known = template.render(turns, (), variables, True)
        unknown = template.render([*turns[:2], turns[2] | {"role": "probe_role"}], (), variables, True)
    except RenderError:
        return False
    return known == unknown.replace("probe_role", "tool")


def _subsets(candidates: Sequence[Repair], most: int) -> list[tuple[Repair, ...]]:
    """Sets of at most `most` repairs, the smallest first; those that give up the template's own tool format at the end."""
    sets = [some for size in range(most + 1) for some in combinations(candidates, size)]
    return sorted(sets, key=lambda some: repairs.TOOLS_AS_TEXT in some)


def _passes(template: Template, each: _Probe, active: Iterable[Repair], variables: Mapping[str, Any]) -> bool:
    text = _text(template, each.messages, tuple(active), variables)
    if text is None or "'city':" in text:  # a printed Python dict is not what any model was trained on
        return False
    place = -1
    for word in each.words:
        place = text.find(word, place + 1)
        if place < 0:
            return False
    return True


def _text(
    template: Template,
    messages: Iterable[Message],
    active: tuple[Repair, ...],
    variables: Mapping[str, Any],
    tools: tuple[dict[str, Any], ...] = (),
) -> str | None:
    """The rendering, or None when the template refuses; a RunawayError passes."""
    try:
        return template.render(repairs.apply(turns_of(tuple(messages)), active), tools, variables, True)
    except RenderError:
        return None


def attempts(turns: list[Turn], own: tuple[Repair, ...]) -> Iterator[tuple[list[Turn], tuple[Repair, ...]]]:
    """What to render, best first: the turns with the template's own repairs, then with one, two or all more.

    Each comes with the repairs that were added; combinations that change nothing new are left out.
    """
    first = repairs.apply(turns, own)
    yield first, ()
    seen = [first]
    others = [repair for repair in repairs.BY_SIZE if repair not in own]
    for extra in [*_subsets(others, 2), tuple(others)]:
        changed = repairs.apply(turns, (*own, *extra))
        if changed not in seen:
            seen.append(changed)
            yield changed, extra
