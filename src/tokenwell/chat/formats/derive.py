"""The spelling of tool calls, read off what a template prints: two single calls and a pair are compared. Pure.

Only for calls whose arguments are printed as JSON; any other notation needs a table of its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tokenwell.chat.formats.format import Call

_NAME_KEY = re.compile(r'\{\s*"(\w+)":\s*"\Z')
_ARGUMENTS_KEY = re.compile(r'\A",\s*"(\w+)":\s*\Z')


@dataclass(frozen=True)
class Printed:
    """Answers as a template prints them, up to their stop token: for one call, for another, a hard one, and two together."""

    single: str
    other: str
    hard: str | None
    pair: str | None
    first: tuple[str, dict[str, Any]]  # what `single` calls, and the first call of `pair`
    second: tuple[str, dict[str, Any]]  # what `other` calls, and the second call of `pair`


@dataclass(frozen=True)
class _Cut:
    """An answer cut at one call's name and arguments."""

    head: str
    between: str
    tail: str


def derive(printed: Printed) -> Call | None:
    """The spelling; None when the arguments are not printed as JSON or the two calls are not printed alike."""
    first, second = _cut(printed.single, printed.first), _cut(printed.other, printed.second)
    if first is None or first != second or not first.head.strip():
        return None
    begin, before, after, separator, end = "", first.head, first.tail, "", ""
    if printed.pair is not None:
        middle = _middle(printed)
        if middle is None:
            return None
        before = _common_suffix(first.head, middle)
        after = common_prefix(first.tail, middle[: len(middle) - len(before)])
        separator = middle[len(after) : len(middle) - len(before)]
        begin = first.head[: len(first.head) - len(before)]
        end = first.tail[len(after) :]
        if not before and not begin.strip():
            return None
    name, arguments = _NAME_KEY.search(before), _ARGUMENTS_KEY.match(first.between)
    envelope = (name[1], arguments[1]) if name and arguments else None
    return Call(
        before=before,
        between=first.between,
        arguments="json",
        after=after.rstrip() if not end else after,
        begin=begin,
        end=end.rstrip(),
        separator=separator,
        envelope=envelope,
        single=printed.pair is None,
    )


def _cut(text: str, call: tuple[str, dict[str, Any]]) -> _Cut | None:
    name, arguments = call
    written = _written(text, arguments)
    place = text.find(name)
    if written is None or place < 0:
        return None
    start = text.find(written, place + len(name))
    if start < 0:
        return None
    return _Cut(text[:place], text[place + len(name) : start], text[start + len(written) :])


def _written(text: str, arguments: dict[str, Any]) -> str | None:
    """The arguments' JSON as it stands in `text`."""
    spellings = (json.dumps(arguments), json.dumps(arguments, separators=(",", ":")))
    return next((spelling for spelling in spellings if spelling in text), None)


def _middle(printed: Printed) -> str | None:
    """What stands between the first call's arguments and the second call's name."""
    assert printed.pair is not None
    written = _written(printed.pair, printed.first[1])
    if written is None:
        return None
    start = printed.pair.find(written) + len(written)
    stop = printed.pair.find(printed.second[0], start)
    return None if stop < 0 else printed.pair[start:stop]


def common_prefix(first: str, second: str) -> str:
    """The longest beginning that both texts share."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))]


def _common_suffix(first: str, second: str) -> str:
    return common_prefix(first[::-1], second[::-1])[::-1]
