"""Arguments as XML-like tags, <parameter=KEY> VALUE </parameter> … </function>; the tool's schema says what type a value has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenwell.chat.arguments.notation import Notation, Out, Value, quoted
from tokenwell.chat.arguments.source import LOOK, Source, Steps

_OPEN, _CLOSE, _END = "<parameter=", "</parameter>", "</function>"
_KEY = re.compile(r"<parameter\s*=\s*[\"']?([^<>\"'\n]{1,200}?)[\"']?\s*>")
_TEXT = re.compile(r"[^<\n\ud800-\udfff]+")
_DEPTH = 16  # references in schemas may be circular
_UNIONS = ("anyOf", "oneOf", "allOf")
_KINDS: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class Parameters:
    """Reads what stands between a call's name and its end: `yield from Parameters(...).read()`.

    `ends`: the marks that close a call. `schema`: the tool's parameters.
    """

    def __init__(
        self,
        source: Source,
        out: Out,
        ends: tuple[str, ...],
        shown: Callable[[str], str],
        schema: Mapping[str, Any],
        strict: bool = False,
    ) -> None:
        self._source = source
        self._out = out
        self._ends = ends
        self._shown = shown
        self._schema = schema
        self._strict = strict  # text that belongs nowhere means that this is no call
        properties = schema.get("properties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        self._seen: set[str] = set()

    def read(self) -> Steps[bool]:
        """True when complete; False when the answer was cut off inside."""
        source = self._source
        self._out("{")
        while True:
            char = yield from source.skip()
            if not char:
                if source.cut or self._strict:
                    return False
                break
            word = yield from source.starts((_OPEN, _CLOSE, _END, *self._ends))
            if word == _OPEN:
                if not (yield from self._parameter()):
                    return False
            elif word == _END:
                source.take(source.at + len(word))
                break
            elif word in self._ends and word:
                break
            elif self._strict and not word:
                return False
            else:
                source.take(source.at + max(1, len(word)))  # nothing that belongs here
        self._out("}")
        return True

    def _parameter(self) -> Steps[bool]:
        source = self._source
        while (end := source.text.find(">", source.at, source.at + 2 * LOOK + 200)) < 0:
            if source.ended or len(source.text) - source.at > LOOK + 200:
                break
            yield
        found = _KEY.match(source.text, source.at, end + 1) if end >= 0 else None
        if found is None:
            if source.ended and source.cut and end < 0:
                return False
            source.take(source.at + len(_OPEN))
            return True
        source.take(found.end())
        key = found[1].strip()
        self._out(f'{", " if self._seen else ""}"{quoted(key)}": ')
        self._seen.add(key)
        part = self._properties.get(key)
        types = kinds(part, self._schema) if key in self._properties else frozenset({"string"})
        if types == {"string"}:
            self._out('"')
            complete = yield from self._text(lambda text: self._out(quoted(text)))
            if complete:
                self._out('"')
            return complete
        parts: list[str] = []
        complete = yield from self._text(parts.append)
        if complete:
            self._out(typed("".join(parts), types))
        return complete

    def _text(self, out: Out) -> Steps[bool]:
        """A value's text without the line break at its beginning and at its end, up to and with its closing tag."""
        source = self._source
        if (yield from source.peek()) == "\n":
            source.take(source.at + 1)
        line = ""  # a line break that may be the last
        while True:
            char = yield from source.peek()
            if not char:
                return not source.cut and not self._strict
            if found := _TEXT.match(source.text, source.at):
                out(line + source.take(found.end()))
                line = ""
            elif char == "\n":
                if line:
                    out(line)
                line = source.take(source.at + 1)
            else:
                closed = yield from self._closes()
                if closed is not None:
                    source.take(source.at + closed)
                    return True
                out(line + self._shown(source.take(source.at + 1)))
                line = ""

    def _closes(self) -> Steps[int | None]:
        """How much to take of the tag here when it ends the value (0: it belongs to what follows); None if it is text."""
        source = self._source
        word = yield from source.starts((_CLOSE, _END, _OPEN, *self._ends))
        if not word:
            return None
        if len(word) == 1:
            return 0 if word in self._ends else None
        if word == _OPEN:
            return 0 if (yield from self._opens_next()) else None
        follows = (_OPEN, _END, *self._ends) if word == _CLOSE else self._ends if word == _END else ("<tool_call>",)
        return (len(word) if word == _CLOSE else 0) if (yield from self._followed(len(word), follows)) else None

    def _opens_next(self) -> Steps[bool]:
        """Whether <parameter=KEY> here is the next parameter, the closing tag of this one having been left out."""
        source = self._source
        while (end := source.text.find(">", source.at, source.at + LOOK + 200)) < 0:
            if source.ended or len(source.text) - source.at > LOOK + 200:
                return False
            yield
        found = _KEY.match(source.text, source.at, end + 1)
        return found is not None and found[1].strip() in self._properties and found[1].strip() not in self._seen

    def _followed(self, offset: int, words: tuple[str, ...]) -> Steps[bool]:
        """Whether behind `offset` and white space comes one of `words` or the end."""
        source = self._source
        longest = max(map(len, words), default=1)
        while True:
            start = source.at + offset
            rest = source.text[start : start + LOOK + longest]
            stripped = rest.lstrip()
            if any(stripped.startswith(word) for word in words):
                return True
            if source.ended and not source.text[start:].strip():
                return True
            if len(rest) >= LOOK + longest or (stripped and not any(word.startswith(stripped) for word in words)):
                return False
            if source.ended:
                return source.cut is False and any(word.startswith(stripped) for word in words)
            yield


def kinds(schema: object, root: Mapping[str, Any], depth: int = _DEPTH) -> frozenset[str]:
    """The JSON types that a schema allows; all of them when it does not say."""
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset()
    if isinstance(reference := schema.get("$ref"), str):
        return kinds(_referred(reference, root), root, depth - 1)
    types = schema.get("type")
    if isinstance(types, str):
        found = {types}
    elif isinstance(types, list):
        found = {name for name in types if isinstance(name, str)}
    elif isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        found = {_KINDS.get(type(value), "null") for value in values}
    else:
        found = set()
        for union in _UNIONS:
            if isinstance(parts := schema.get(union), list):
                each = [kinds(part, root, depth - 1) for part in parts]
                known = [some for some in each if some]
                if len(known) < len(each) and union != "allOf":
                    return frozenset()
                found = found.union(*known)
        if not found and "properties" in schema:
            found = {"object"}
        elif not found and "items" in schema:
            found = {"array"}
    if schema.get("nullable") is True:
        found.add("null")
    return frozenset(found)


def _referred(reference: str, root: Mapping[str, Any]) -> object:
    place: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            place = place.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
    return place


def typed(text: str, types: frozenset[str]) -> str:
    """A value's text as JSON of one of these types (empty: of any); a text that fits none stays a string."""
    bare = text.strip()
    lower = bare.lower()
    if lower in ("null", "none") and "null" in types:
        return "null"
    if lower in ("true", "false") and (not types or "boolean" in types):
        return lower
    if types == {"boolean"} and lower in ("1", "0", "yes", "no"):
        return "true" if lower in ("1", "yes") else "false"
    read = _loaded(bare)
    if read is None and bare[:1] in ("{", "[", "(") and (not types or types & {"object", "array"}):
        read = _loaded(_mended(bare))
    if read is not None:
        value, written = read
        if _fits(value, types):
            return written
        if isinstance(value, float) and value.is_integer() and "integer" in types:
            return str(int(value))
    return f'"{quoted(text)}"'


def _fits(value: object, types: frozenset[str]) -> bool:
    if isinstance(value, str):
        return bool(types) and "string" not in types  # where text is allowed, quotes around it are part of it
    kind = "null" if value is None else _KINDS[type(value)]
    return not types or kind in types or (kind == "integer" and "number" in types)


def _loaded(text: str) -> tuple[object, str] | None:
    """The value of a JSON text, and the text."""
    try:
        return json.loads(text, parse_constant=_refuse), text
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _mended(text: str) -> str:
    """Brackets that are not JSON (Python's literals, say) as JSON."""
    parts: list[str] = []
    for _ in Value(Source(text, ended=True), parts.append, Notation((), str, keep=False)).read():
        pass
    return "".join(parts)
