"""Arguments as XML-like tags, <parameter=KEY> VALUE </parameter> … </function>; the tool's schema says what type a value has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tokenwell.chat.arguments.kinds import kinds, named, typed, unnamed
from tokenwell.chat.arguments.notation import quoted
from tokenwell.chat.arguments.source import LOOK, Source, Steps
from tokenwell.chat.arguments.values import Out

_OPEN, _CLOSE, _END = "<parameter=", "</parameter>", "</function>"
_KEY = re.compile(r"<parameter\s*=\s*[\"']?([^<>\"'\n]{1,200}?)[\"']?\s*>")
_TEXT = re.compile(r"[^<\n\ud800-\udfff]+")


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
        self._properties = named(schema)
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
        parts = self._properties.get(key) or unnamed(self._schema, key)
        types = kinds({"allOf": parts}, self._schema) if parts else frozenset({"string"})
        if types == {"string"}:
            self._out('"')
            complete = yield from self._text(lambda text: self._out(quoted(text)))
            if complete:
                self._out('"')
            return complete
        texts: list[str] = []
        complete = yield from self._text(texts.append)
        if complete:
            self._out(typed("".join(texts), types))
        return complete

    def _text(self, out: Out) -> Steps[bool]:
        """A value's text without the line break at its beginning and at its end, up to and with its closing tag."""
        source = self._source
        if (yield from source.peek()) == "\n":
            source.take(source.at + 1)
        line = ""  # a line break that may be the last
        while True:
            char = source.here or (yield from source.peek())
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
