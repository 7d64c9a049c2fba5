"""Calls as JSON objects that hold the name, or as Python calls: one or several, in a list or not."""

from __future__ import annotations

import json

from tokenwell.chat.arguments.source import LOOK, SPACES, Source, Steps
from tokenwell.chat.arguments.values import Value
from tokenwell.chat.attempt import Attempt
from tokenwell.chat.formats.format import Call
from tokenwell.chat.formats.reading import NAME, Reading
from tokenwell.chat.outlet import Outlet

_KNOWN_KEYS = {"name", "function", "tool", "tool_name", "arguments", "parameters", "args", "input", "type", "id", "call_id"}
_NAME_KEYS = {"name", "function", "tool", "tool_name"}
_ARGUMENT_KEYS = {"arguments", "parameters", "args", "input"}


class Envelopes:
    """Reads the objects of one answer."""

    def __init__(self, reading: Reading, source: Source, outlet: Outlet, attempt: Attempt) -> None:
        self._reading = reading
        self._source = source
        self._outlet = outlet
        self._attempt = attempt

    def open(self) -> Steps[Call | None]:
        """Take the marks and the fence before an object; None when no object follows."""
        source = self._source
        for opener, call in self._reading.envelopes:
            if not opener or (yield from source.starts(opener[:1])) != opener[0]:
                continue
            for word in opener:
                yield from source.skip()
                if (yield from source.starts((word,))):
                    source.take(source.at + len(word))
            yield from self._attempt.fence()
            char = yield from source.skip()
            return call if char and char in "{[" else None
        return None

    def read(self, call: Call) -> Steps[bool]:
        """Objects and Python calls, one or several, in a list or not."""
        source, first, listed = self._source, True, False
        while True:
            char = yield from source.skip(SPACES if first else SPACES + ",;")
            if not first and char and char in "{[":
                self._attempt.begin()
            if char == "{":
                read = yield from self._envelope(call)
            elif char == "[" and not listed:
                source.take(source.at + 1)
                listed = True
                if not first:
                    source.recorded()
                continue
            elif listed and char and (char.isalpha() or char == "_"):
                if not first:
                    self._attempt.begin()
                read = yield from self._python(call)
            elif first:
                return self._attempt.refuse()
            else:
                if listed and char == "]":
                    source.take(source.at + 1)
                yield from self._attempt.close()
                return True
            if not read:
                return not first
            if self._outlet.cut:
                return True
            first = False
            if not call.whole and not listed and (yield from self._attempt.close()):
                return True

    def _python(self, call: Call) -> Steps[bool]:
        """f(a=1), in a list."""
        source = self._source
        while not source.ended and (found := NAME.match(source.text, source.at)) and found.end() == len(source.text):
            yield
        found = NAME.match(source.text, source.at)
        if found is None or source.text[found.end() : found.end() + 1] != "(" or found[0] not in self._attempt.schemas:
            return self._attempt.refuse()
        source.take(found.end())
        self._attempt.start(found[0])
        return self._attempt.finish((yield from self._attempt.value("gemma")))

    def _envelope(self, call: Call) -> Steps[bool]:
        """One object with name and arguments."""
        fields = Fields()
        complete = yield from self._fields(fields, call)
        if self._attempt.started:
            return self._attempt.finish(complete and (yield from self._attempt.settled(call)))
        source = self._source
        at_end = source.ended and source.at >= len(source.text)
        if at_end and fields.arguments is None and fields.name not in self._attempt.schemas:
            fields.name = ""
        if not fields.name or (call.whole and fields.arguments is None):
            if source.cut and at_end and fields.plausible and not self._attempt.thought and not call.whole:
                self._attempt.drop_rest()
                self._outlet.commit()
                return True
            return self._attempt.refuse()
        if not complete:
            if self._attempt.thought:
                return self._attempt.refuse()
            self._attempt.start(fields.name)
            return self._attempt.finish(False)
        self._attempt.start(fields.name)
        self._attempt.put(self._attempt.unwrapped(fields.arguments or "{}"))
        return self._attempt.finish((yield from self._attempt.settled(call)))

    def _fields(self, fields: Fields, call: Call) -> Steps[bool]:
        """The keys and values of the object; False when it was cut off. Stops where it cannot be a call any more."""
        source, depth = self._source, 0
        while True:
            char = yield from source.skip(SPACES + ",")
            if not char:
                return not source.cut
            if char == "{" and depth == 0:
                source.take(source.at + 1)
                depth = 1
                continue
            if char == "}":
                source.take(source.at + 1)
                depth -= 1
                if depth <= 0:
                    return True
                continue
            if (yield from source.starts(self._reading.notations["json"].ends)) or char in "]{[)(":
                return True
            key = yield from self._small(key=True)
            if key is None or not self._possible(key, call):
                fields.plausible = key is None and source.cut
                return key is not None or not source.cut
            char = yield from source.skip()
            if char and char in ":=":
                source.take(source.at + 1)
                char = yield from source.skip()
            if key == "function" and char == "{":
                source.take(source.at + 1)
                depth += 1
                continue
            if not (yield from self._field(key, char, fields, call)):
                return not (source.ended and source.cut and source.at >= len(source.text))

    def _possible(self, key: str, call: Call) -> bool:
        return not call.whole or key in _KNOWN_KEYS or key in (call.envelope or ())

    def _field(self, key: str, char: str, fields: Fields, call: Call) -> Steps[bool]:
        """One value; False when the object was cut off or is no call."""
        names, arguments = call.envelope or ("name", "arguments")
        if (key == names or key in _NAME_KEYS) and not fields.name:
            name = yield from self._small()
            if name is None or (
                not name or len(name) > LOOK * 4 or (name not in self._attempt.schemas and (call.whole or self._attempt.thought))
            ):
                fields.plausible = name is None
                return False
            fields.name = name
            return True
        if (key == arguments or key in _ARGUMENT_KEYS) and not self._attempt.started and fields.arguments is None:
            if fields.name:
                self._attempt.start(fields.name)
                return (yield from self._attempt.json())
            parts: list[str] = []
            if not (yield from Value(self._source, parts.append, self._reading.notations["json"]).read()):
                return False
            fields.arguments = "".join(parts)
            return True
        return (yield from Value(self._source, _nowhere, self._reading.notations["json"]).read())

    def _small(self, *, key: bool = False) -> Steps[str | None]:
        """A key or a name; None when it was cut off, "" when it is no text."""
        parts: list[str] = []
        if not (yield from Value(self._source, parts.append, self._reading.notations["json"], key=key).read()):
            return None
        written = "".join(parts)
        return str(json.loads(written)) if written[:1] == '"' else ""


class Fields:
    """What an object that may be a call has shown so far."""

    def __init__(self) -> None:
        self.name = ""
        self.arguments: str | None = None  # JSON that came before the name
        self.plausible = True  # it could still have become a call


def _nowhere(text: str) -> None:
    """For values that nobody wants."""
