"""Which chat format a checkpoint speaks, found out once at load and proven: a call that its template prints is read back.

The tables are tried in order. When none reads the template's calls, a table is derived from the template itself; when that
fails too, the model is not offered tools. Knows no requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tokenwell.chat.conversation import ChatError, Conversation, Message, ToolCall
from tokenwell.chat.events import Content, Reasoning, ToolArguments, ToolEnd, ToolStart
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.bound import Bound, bind
from tokenwell.chat.formats.derive import Printed, common_prefix, derive
from tokenwell.chat.formats.format import Call, Format
from tokenwell.chat.formats.hermes import HERMES
from tokenwell.chat.formats.plain import PLAIN
from tokenwell.chat.parser import Parser
from tokenwell.wire.messages import Choice

_ASK = Message(role="user", content="probe question")
_PLAIN_CALL = ("probe_first", {"city": "probe city", "days": 3})
_OTHER_CALL = ("probe_second", {"city": "other place"})
_HARD_CALL = (
    "probe_first",
    {
        "city": 'Zürich "Bürkli\\platz" 🙂\n  line, {two}',
        "days": -7,
        "places": [{"name": "a b", "open": True}, {"name": ""}],
        "near": None,
    },
)
TOOLS: tuple[dict[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A probe.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "A city."},
                    "days": {"type": "integer"},
                    "places": {
                        "type": "array",
                        "items": {"type": "object", "properties": {"name": {"type": "string"}, "open": {"type": "boolean"}}},
                    },
                    "near": {"type": ["string", "null"]},
                },
                "required": ["city"],
            },
        },
    }
    for name in ("probe_first", "probe_second")
)


class Renders(Protocol):
    """What is needed of a Renderer."""

    def render(self, conversation: Conversation) -> str:
        """The prompt's text. Raises ChatError."""
        ...


@dataclass(frozen=True)
class Chosen:
    """The format, whether calls were proven to be read back, and what a person is told."""

    bound: Bound
    calls: bool  # calls that the model makes will be read
    choice: Choice


@dataclass(frozen=True)
class Checkpoint:
    """What the choice depends on: how prompts are rendered, the special tokens (text -> id), the texts of the stop tokens."""

    renders: Renders
    sources: Sequence[str]  # texts of the templates
    reads_tools: bool
    special: Mapping[str, int]
    stops: tuple[str, ...]


def choose(checkpoint: Checkpoint, asked: str) -> Chosen:
    """The format that was `asked` for, or the one that the template's own calls prove."""
    printed = _printed(checkpoint)
    if asked != "auto":
        bound = _best(FORMATS[asked], checkpoint, printed)
        result = _proof(bound, printed) or f"not proven: {_why(printed)}"
        return Chosen(bound, True, Choice("chat format", asked, f"set by model.chat_format; {result}"))
    if printed is None:
        return _without_calls(checkpoint, _why(printed) if checkpoint.reads_tools else "the template shows no tools")
    for format in FORMATS.values():
        bound = _best(format, checkpoint, printed)
        if proof := _proof(bound, printed):
            return Chosen(bound, True, Choice("chat format", format.name, proof))
    derived = _derived(checkpoint, printed)
    if derived is not None and (proof := _proof(derived, printed)):
        reason = f"no table reads the template's calls, so their spelling was derived from the template; {proof}"
        return Chosen(derived, True, Choice("chat format", derived.name, reason))
    return _without_calls(checkpoint, _why(printed))


def _derived(checkpoint: Checkpoint, printed: Printed) -> Bound | None:
    """A table made from what the template prints."""
    call = derive(printed)
    if call is None:
        return None
    like = _thinking(checkpoint)
    spelled = call.begin + call.before + call.between + call.after + call.separator + call.end
    marks = {*like.marks, *(mark for mark in checkpoint.special if mark in spelled)}
    return bind(Format("derived", tuple(sorted(marks)), like.thinking, (call,), starts=like.starts), checkpoint.special)


def _without_calls(checkpoint: Checkpoint, why: str) -> Chosen:
    """Only reasoning can be told from the answer, if that."""
    format = _thinking(checkpoint)
    what = "everything that is generated is content" if format is PLAIN else "only reasoning is told from content"
    reason = f"{why}: requests with tools are refused, {what}; another format can be set with --chat-format"
    return Chosen(bind(format, checkpoint.special), False, Choice("chat format", format.name, reason))


def _thinking(checkpoint: Checkpoint) -> Format:
    """The format whose way of thinking the template or the vocabulary knows; plain if none."""
    known = [format for format in FORMATS.values() if _thinks(format, checkpoint)]
    signed = [format for format in known if _signed(format, checkpoint)]
    return (signed or [format for format in known if format is HERMES] or known or [PLAIN])[0]


def _thinks(format: Format, checkpoint: Checkpoint) -> bool:
    thinking = format.thinking
    if thinking is None:
        return format.channels is not None and _signed(format, checkpoint)
    return thinking.open in checkpoint.special or any(thinking.close in text for text in checkpoint.sources)


def _signed(format: Format, checkpoint: Checkpoint) -> bool:
    return bool(format.signs) and any(all(sign in text for sign in format.signs) for text in checkpoint.sources)


def _why(printed: Printed | None) -> str:
    if printed is None:
        return "the template prints no tool calls of the assistant's"
    return "the calls that the template prints could not be read back"


# ---------------------------------------------------------------- what the template prints


def _printed(checkpoint: Checkpoint) -> Printed | None:
    """The answers that the template prints for probe calls; None when it prints none."""
    if not checkpoint.reads_tools:
        return None
    try:
        single = _answer(checkpoint, _PLAIN_CALL)
        other = _answer(checkpoint, _OTHER_CALL)
    except ChatError:
        return None
    if single is None or other is None or _PLAIN_CALL[0] not in single:
        return None
    hard = pair = None
    try:
        hard = _answer(checkpoint, _HARD_CALL)
        pair = _answer(checkpoint, _PLAIN_CALL, _OTHER_CALL)
    except ChatError:
        pass  # what the template cannot print is not asked of the format either
    return Printed(single, other, hard, pair if pair is not None and _OTHER_CALL[0] in pair else None, _PLAIN_CALL, _OTHER_CALL)


def _answer(checkpoint: Checkpoint, *calls: tuple[str, dict[str, Any]]) -> str | None:
    """The text that the model would have generated for these calls: the last turn up to its stop token."""
    busy = Message(
        role="assistant",
        tool_calls=tuple(
            ToolCall(f"call_{number}aaaaaaaa"[:9], name, json.dumps(arguments)) for number, (name, arguments) in enumerate(calls)
        ),
    )
    # Behind the question only: some templates print the tools elsewhere once there is an answer.
    opening = checkpoint.renders.render(Conversation((_ASK,), TOOLS)).rpartition(_ASK.content)[2]
    rest = checkpoint.renders.render(Conversation((_ASK, busy), TOOLS, add_generation_prompt=False)).rpartition(_ASK.content)[2]
    start = len(common_prefix(opening, rest))
    text = rest[start - _inside_mark(rest, start, checkpoint) :]
    ends = [place for stop in checkpoint.stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _inside_mark(text: str, place: int, checkpoint: Checkpoint) -> int:
    """How many characters before `place` a mark begins that goes on behind it: two marks may begin alike."""
    marks = {*checkpoint.special, *(mark for format in FORMATS.values() for mark in format.marks)}
    return max(
        (back for mark in marks for back in range(1, len(mark)) if back <= place and text.startswith(mark, place - back)),
        default=0,
    )


# ---------------------------------------------------------------- the proof


def _best(format: Format, checkpoint: Checkpoint, printed: Printed | None) -> Bound:
    """The format with the spelling that the template prints; the table's first when none is printed to the letter."""
    for call in format.calls:
        if printed is not None and call.before + _PLAIN_CALL[0] + call.between in printed.single:
            return bind(format, checkpoint.special, _with_run(call, printed))
    return bind(format, checkpoint.special)


def _with_run(call: Call, printed: Printed) -> Call:
    """The spelling with the opening and the separator that the template prints; they differ in white space only."""
    head = printed.single.partition(call.before + _PLAIN_CALL[0])[0]
    if call.begin and "".join(head.split()) == "".join(call.begin.split()):
        call = replace(call, begin=head)
    if printed.pair is None or not call.after:
        return call
    first, found, _ = printed.pair.partition(call.before + _OTHER_CALL[0])
    _, ended, separator = first.rpartition(call.after)
    return replace(call, separator=separator) if found and ended else call


def _proof(bound: Bound, printed: Printed | None) -> str | None:
    """What was read back, in words; None when a call was not."""
    bound = replace(bound, format=replace(bound.format, mixed=()))  # what is read out of leniency proves nothing
    if printed is None or not bound.format.calls or not _reads(bound, printed.single, _PLAIN_CALL):
        return None
    if printed.hard is not None and not _reads(bound, printed.hard, _HARD_CALL):
        return None
    if printed.pair is not None:
        both = _reads(bound, printed.pair, _PLAIN_CALL, _OTHER_CALL)
        return "calls that the template prints are read back" + ("" if both else "; of parallel ones only the first")
    return "a call that the template prints is read back"


def _reads(bound: Bound, text: str, *calls: tuple[str, dict[str, Any]]) -> bool:
    parser = Parser(bound, TOOLS)
    events = [*parser.feed(bound.spelled(text)), *parser.finish()]
    if any((isinstance(event, Content) and event.text.strip()) or isinstance(event, Reasoning) for event in events):
        return False
    return list(_calls(events)) == list(calls)


def _calls(events: Sequence[object]) -> Iterator[tuple[str, Any]]:
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for event in events:
        if isinstance(event, ToolStart):
            names[event.index] = event.name
        elif isinstance(event, ToolArguments):
            arguments[event.index] = arguments.get(event.index, "") + event.text
        elif isinstance(event, ToolEnd):
            yield names[event.index], json.loads(arguments.get(event.index, "") or "{}")
