"""Setting values in JSON, JSON with comments and JSON5 without touching anything else of the text. Knows no files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_BLANK = re.compile(r"(?:\s|\ufeff|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'', re.DOTALL)
_WORD = re.compile(r"[^\s,:{}\[\]\"'/]+")
_REST_OF_LINE = re.compile(r"(?:[ \t]*(,))?([ \t]*//[^\n]*)?")


class NotReadable(ValueError):  # noqa: N818
    """The text is not what it should be, or something else than an object stands where a setting belongs."""


@dataclass
class _Node:
    start: int
    end: int = 0
    is_object: bool = False
    members: list[tuple[str, int, _Node]] = field(default_factory=list)  # key, where it starts, value


def with_values(text: str, values: dict[tuple[str, ...], object]) -> str:
    """The text with each value at its path of keys; objects on the way are made. Raises NotReadable with the line."""
    if not text.strip():
        text = "{}\n"
    for path, value in values.items():
        text = _with_value(text, path, value)
    return text


def plain_with_values(text: str, values: dict[tuple[str, ...], object]) -> str:
    """The same for programs that read plain JSON: a comment or a comma too many makes them ignore the whole file."""
    if text.strip():
        try:
            json.loads(text.removeprefix("\ufeff"))
        except ValueError as error:
            raise NotReadable(f"it is not plain JSON, and a file that is not is ignored as a whole ({error})") from error
    return with_values(text, values)


def _with_value(text: str, path: tuple[str, ...], value: object) -> str:
    node = _read(text)
    for depth, key in enumerate(path):
        if not node.is_object:
            raise NotReadable(f"{'.'.join(path[:depth]) or 'the whole'} is not an object")
        found = [member for member in node.members if member[0] == key]
        if not found:
            return _inserted(text, node, key, _nested(path[depth + 1 :], value))
        node = found[-1][2]
    if _same(text[node.start : node.end], value):
        return text
    line = text[text.rfind("\n", 0, node.start) + 1 : node.start]
    return text[: node.start] + _written(value, line[: len(line) - len(line.lstrip())]) + text[node.end :]


def _same(written: str, value: object) -> bool:
    try:
        old = json.loads(written)
    except ValueError:
        return False
    return type(old) is type(value) and bool(old == value)


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _written(value: object, indent: str) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", f"\n{indent}")


def _inserted(text: str, node: _Node, key: str, value: object) -> str:
    """A new last member, below the comment on the line of the one before it."""
    before = text[text.rfind("\n", 0, node.start) + 1 : node.start]
    outer = before[: len(before) - len(before.lstrip())]
    if not node.members:
        indent = outer + "  "
        inside = text[node.start + 1 : node.end - 1]
        end = f"\n{outer}" if not inside.strip() else inside
        return f"{text[: node.start + 1]}\n{indent}{json.dumps(key)}: {_written(value, indent)}{end}{text[node.end - 1 :]}"
    first = node.members[0][1]
    lead = text[text.rfind("\n", 0, first) + 1 : first]
    own_line = not lead.strip()
    indent = lead if own_line else outer
    place = node.members[-1][2].end
    rest = _REST_OF_LINE.match(text, place)
    assert rest is not None
    comma, comment = rest[1] or "", rest[2] or ""
    gap = f"\n{indent}" if own_line or comment else " "
    member = f"{json.dumps(key, ensure_ascii=False)}: {_written(value, indent)}"
    return f"{text[:place]},{comment}{gap}{member}{comma}{text[rest.end() :]}"


# ---------------------------------------------------------------- reading: only as much as finds the places


def _read(text: str) -> _Node:
    node = _value(text, _skip(text, 0))
    end = _skip(text, node.end)
    if end != len(text):
        raise _error(text, end, "there is more behind the end")
    return node


def _skip(text: str, place: int) -> int:
    match = _BLANK.match(text, place)
    assert match is not None
    return match.end()


def _error(text: str, place: int, what: str) -> NotReadable:
    return NotReadable(f"line {text.count(chr(10), 0, place) + 1}: {what}")


def _value(text: str, place: int) -> _Node:
    opening = text[place : place + 1]
    try:
        if opening == "{":
            return _object(text, place)
        if opening == "[":
            return _array(text, place)
    except RecursionError:
        raise _error(text, place, "nested too deeply") from None
    match = _STRING.match(text, place) or _WORD.match(text, place)
    if match is None:
        raise _error(text, place, "a value is missing")
    return _Node(place, match.end())


def _object(text: str, start: int) -> _Node:
    node = _Node(start, is_object=True)
    place = _skip(text, start + 1)
    while text[place : place + 1] != "}":
        match = _STRING.match(text, place) or _WORD.match(text, place)
        if match is None:
            raise _error(text, place, "a key or } is missing")
        colon = _skip(text, match.end())
        if text[colon : colon + 1] != ":":
            raise _error(text, colon, "a colon is missing")
        value = _value(text, _skip(text, colon + 1))
        node.members.append((_key(match[0]), place, value))
        place = _after_comma(text, value.end, "}")
    node.end = place + 1
    return node


def _array(text: str, start: int) -> _Node:
    place = _skip(text, start + 1)
    while text[place : place + 1] != "]":
        place = _after_comma(text, _value(text, place).end, "]")
    return _Node(start, place + 1)


def _after_comma(text: str, place: int, closing: str) -> int:
    place = _skip(text, place)
    if text[place : place + 1] == ",":
        return _skip(text, place + 1)
    if text[place : place + 1] != closing:
        raise _error(text, place, f"a comma or {closing} is missing")
    return place


def _key(written: str) -> str:
    if written[0] not in "\"'":
        return written
    body = written[1:-1]
    if "\\" in body and written[0] == '"':
        try:
            return str(json.loads(written))
        except ValueError:
            return body
    return re.sub(r"\\(.)", r"\1", body)
