"""A bound format made ready for reading: what opens and closes calls and thoughts, with marks as characters. Data only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from tokenwell.chat.arguments.notation import Notation
from tokenwell.chat.formats.format import Call, Channels, Format, Syntax, Thinking

# Names as tools have them; every API allows fewer characters.
NAME = re.compile(r"[\w.\-/:$@]{1,200}")
_STRING = '<|"|>'
_FENCE = "```json"

Step = tuple[Literal["word", "maybe", "name", "id"], str]


@dataclass(frozen=True)
class Lead:
    """What stands before a call's arguments, white space between the steps left out."""

    opener: tuple[Step, ...]  # up to the name; the first ones may be missing when a mark follows
    behind: tuple[Step, ...]  # between the name and the arguments
    begins: tuple[str, ...]  # the arguments' first characters
    call: Call
    closers: tuple[str, ...]  # in this order behind the arguments
    syntax: Syntax


@dataclass(frozen=True)
class Reading:
    """What the parser looks for."""

    text: re.Pattern[str]  # a mark, or the beginning of one at the end of the text; what a text may hold
    words: frozenset[str]  # the complete ones
    thinking: Thinking | None
    channels: Channels | None
    triggers: frozenset[str]  # where a call may begin
    closers: tuple[str, ...]  # what may follow a call's arguments
    ends: tuple[str, ...]  # those of them that are marks: they end arguments
    leads: tuple[Lead, ...]
    envelopes: tuple[tuple[tuple[str, ...], Call], ...]  # (opening steps, call)
    notations: dict[Syntax, Notation]
    whole: Call | None
    quotable: bool  # some marks are text, which may be quoted or fenced


def reading(format: Format, calls: Iterable[Call], spelled: Callable[[str], str], shown: Callable[[str], str]) -> Reading:
    """The table for one binding; `calls` are the spellings to read."""
    calls = tuple(calls)
    readable = (*calls, *format.mixed)
    marks = format.marks
    thinking = format.thinking and Thinking(
        spelled(format.thinking.open), spelled(format.thinking.close), label=format.thinking.label
    )
    channels = format.channels and _channels(format.channels, spelled)
    leads = tuple(_lead(call, marks, spelled) for call in readable if not call.envelope)
    envelopes = tuple((_envelope_opener(call, marks, spelled), call) for call in readable if call.envelope and not call.whole)
    closers = tuple(dict.fromkeys(part for call in readable for part in _closers(call, marks, spelled)))
    triggers = frozenset(part for lead in leads if lead.call in calls for part in _triggers(lead)) | frozenset(
        opener[0] for opener, call in envelopes if opener and call in calls
    )
    ends = tuple(part for part in closers if _is_mark(part) and part != "</function>")
    words = {*triggers, *(part for part in closers if _is_mark(part)), *map(spelled, marks)}
    words |= {thinking.open, thinking.close} if thinking else set()
    words.discard("")
    stops = tuple(dict.fromkeys((*ends, *triggers))) if any(len(word) == 1 for word in triggers) else ends
    stops = tuple(word for word in stops if word in ends or len(word) == 1)
    return Reading(
        text=_pattern(words),
        words=frozenset(words),
        thinking=thinking,
        channels=channels,
        triggers=triggers,
        closers=closers,
        ends=ends,
        leads=leads,
        envelopes=envelopes,
        notations={
            "json": Notation(stops, shown),
            "gemma": Notation(stops, shown, quote=spelled(_STRING), keep=False),
            "xml": Notation(stops, shown, keep=False),
        },
        whole=next((call for call in calls if call.whole), None),
        quotable=any(len(word) > 1 for word in words),
    )


def _is_mark(part: str) -> bool:
    return "\udc00" <= part[:1] <= "\udfff" or (len(part) > 1 and part[0] in "<[")


def _parts(text: str, marks: Iterable[str], spelled: Callable[[str], str]) -> tuple[str, ...]:
    """A table's text cut at its marks and its white space."""
    known = sorted({*marks, "</function>", "</tool_call>", "<function="}, key=len, reverse=True)
    cut = re.split(f"({'|'.join(map(re.escape, known))})|\\s+", text)
    return tuple(spelled(part) for part in cut if part)


def _lead(call: Call, marks: tuple[str, ...], spelled: Callable[[str], str]) -> Lead:
    opener = tuple(_step(part) for part in _parts(call.begin + call.before, marks, spelled))
    behind: tuple[Step, ...] = tuple(("maybe", part) for part in _parts(call.between, marks, spelled))
    if call.call_id:
        behind = (("id", spelled(call.call_id)), *behind)
    if call.arguments == "json" and ("maybe", _FENCE) not in behind:
        behind = (*behind, ("maybe", _FENCE))
    begins = {"json": ("{", '"'), "gemma": ("{", "("), "xml": ("<",)}[call.arguments]
    return Lead(opener, behind, begins, call, _closers(call, marks, spelled), call.arguments)


def _step(part: str) -> Step:
    return ("maybe" if part == "call:" else "word", part)


def _triggers(lead: Lead) -> Iterable[str]:
    """The marks at the beginning of the opener, each of which may be the first that the model writes."""
    for index, (_, word) in enumerate(lead.opener):
        if index and not _is_mark(word):
            break
        yield word
        if index and word == lead.opener[-1][1]:
            break


def _envelope_opener(call: Call, marks: tuple[str, ...], spelled: Callable[[str], str]) -> tuple[str, ...]:
    head = (call.begin + call.before).partition("{")[0]
    return _parts(head.rstrip("[ \n"), marks, spelled)


def _closers(call: Call, marks: tuple[str, ...], spelled: Callable[[str], str]) -> tuple[str, ...]:
    after = call.after.removeprefix("}") if call.envelope else call.after
    end = call.end.lstrip("] \n") if call.envelope else call.end  # the list's bracket is read with the list
    parts = _parts(after, marks, spelled) + _parts(end, marks, spelled)
    return tuple(dict.fromkeys(part for part in parts))


def _channels(channels: Channels, spelled: Callable[[str], str]) -> Channels:
    return Channels(
        start=spelled(channels.start),
        message=spelled(channels.message),
        channel=spelled(channels.channel),
        constrain=spelled(channels.constrain),
        ends=tuple(map(spelled, channels.ends)),
        kinds=channels.kinds,
        recipient=channels.recipient,
    )


def _pattern(words: set[str]) -> re.Pattern[str]:
    """Finds the first of the words; at the end of the text also a beginning of one."""
    if not words:
        return re.compile(r"(?!)")
    whole = sorted(words, key=len, reverse=True)
    begun = sorted({word[:size] for word in words for size in range(1, len(word))}, key=len, reverse=True)
    pattern = "|".join(map(re.escape, whole))
    if begun:
        pattern += rf"|(?:{'|'.join(map(re.escape, begun))})\Z"
    return re.compile(pattern)
