"""Setting values in TOML, flat YAML and environment files line by line, so that comments stay. Knows no files."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from tokenwell.cli.connect.json5 import NotReadable

_TABLE = re.compile(r"\s*\[")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_with_values(text: str, values: dict[tuple[str, ...], object]) -> str:
    """Keys of the root and of tables. Raises NotReadable when the text is no TOML or is written in a way that hides its keys."""
    expected = _merged(_toml(text), values)
    lines = text.splitlines()
    for path, value in values.items():
        _set_toml(lines, path, value)
    result = "\n".join(lines) + "\n"
    try:
        good = tomllib.loads(result) == expected
    except tomllib.TOMLDecodeError:
        good = False
    if not good:
        raise NotReadable("its settings stand in inline tables or strings of several lines and cannot be changed line by line")
    return result


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotReadable(str(error)) from error


def _merged(tree: dict[str, Any], values: dict[tuple[str, ...], object]) -> dict[str, Any]:
    for path, value in values.items():
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise NotReadable(f"{key} is not a table")
        place[path[-1]] = value
    return tree


def _set_toml(lines: list[str], path: tuple[str, ...], value: object) -> None:
    line = f"{_toml_key(path[-1])} = {json.dumps(value, ensure_ascii=False)}"
    start, end = _section(lines, path[:-1])
    if start is None:
        if lines and lines[-1].strip():
            lines.append("")
        lines += [f"[{'.'.join(map(_toml_key, path[:-1]))}]", line]
        return
    key = re.compile(rf"\s*[\"']?{re.escape(path[-1])}[\"']?\s*=\s*(.*)")
    last = start
    for number in range(start, end):
        match = key.match(lines[number])
        if match:
            if not _is_value(match[1], value):
                lines[number] = line
            return
        if lines[number].strip():
            last = number + 1
    if not path[:-1] and start == last and end < len(lines):
        lines.insert(last, "")
    lines.insert(last, line)


def _is_value(written: str, value: object) -> bool:
    try:
        return bool(tomllib.loads(f"x = {written}")["x"] == value)
    except tomllib.TOMLDecodeError:
        return False


def _section(lines: list[str], table: tuple[str, ...]) -> tuple[int | None, int]:
    """First line and end of a table's own lines; of the root's without a table."""
    heads = [number for number, line in enumerate(lines) if _TABLE.match(line)]
    if not table:
        return 0, heads[0] if heads else len(lines)
    for place, number in enumerate(heads):
        head = lines[number].strip()
        if not head.startswith("[[") and _is_table(head, table):
            return number + 1, heads[place + 1] if place + 1 < len(heads) else len(lines)
    return None, 0


def _is_table(head: str, table: tuple[str, ...]) -> bool:
    try:
        tree: Any = tomllib.loads(head)
    except tomllib.TOMLDecodeError:
        return False
    for key in table:
        if list(tree) != [key]:
            return False
        tree = tree[key]
    return bool(tree == {})


def _toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def yaml_with_values(text: str, values: dict[tuple[str, ...], object]) -> str:
    """Keys at the left margin; texts are written as JSON, which is YAML too."""
    lines = text.splitlines()
    for (name,), value in values.items():
        _set_line(lines, re.compile(rf"[\"']?{re.escape(name)}[\"']?\s*:"), f"{name}: {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def env_with_values(text: str, values: dict[tuple[str, ...], object]) -> str:
    """NAME=value without quotes, which docker would take for a part of the value."""
    lines = text.splitlines()
    for (name,), value in values.items():
        _set_line(lines, re.compile(rf"(?:export\s+)?{re.escape(name)}="), f"{name}={value}")
    return "\n".join(lines) + "\n"


def _set_line(lines: list[str], key: re.Pattern[str], line: str) -> None:
    places = [number for number, text in enumerate(lines) if key.match(text)]
    if not places:
        lines.append(line)
        return
    end = places[-1] + 1
    while end < len(lines) and lines[end][:1] in (" ", "\t") and lines[end].strip():  # the rest of a value of several lines
        end += 1
    lines[places[-1] : end] = [line]
