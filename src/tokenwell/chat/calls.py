"""Calls read from where a mark says that one may begin. What does not read as a call is given back as text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenwell.chat.arguments.notation import Value
from tokenwell.chat.arguments.source import LOOK, SPACES, Source, Steps
from tokenwell.chat.arguments.xml import Parameters
from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.format import Call, Syntax
from tokenwell.chat.formats.reading import NAME, Lead, Step
from tokenwell.chat.outlet import Outlet

_FENCES = ("```json", "```")
# So often may a call that never closes run over the end of a thought and be read again: what is read twice stays bounded.
_OVERRUNS = 4
_KNOWN_KEYS = {"name", "function", "tool", "tool_name", "arguments", "parameters", "args", "input", "type", "id", "call_id"}
_NAME_KEYS = {"name", "function", "tool", "tool_name"}
_ARGUMENT_KEYS = {"arguments", "parameters", "args", "input"}


class Calls:
    """Reads calls of one answer from its source into its outlet."""

    def __init__(self, bound: Bound, tools: Sequence[Mapping[str, Any]], source: Source, outlet: Outlet) -> None:
        self._bound = bound
        self._reading = bound.reading
        self._source = source
        self._outlet = outlet
        self._schemas = {name: schema for name, schema in map(_named, tools) if name}
        self._thought = False  # we are inside reasoning, where only a complete and fitting call counts
        self._pieces: list[str] = []  # the arguments, kept only inside reasoning
        self._name = ""
        self._started = False
        self._fenced = False  # a code fence was opened around the call
        self._overruns = 0

    def read(self) -> Steps[bool]:
        """Read what a trigger opens. False when it is no call: then its first mark was given as text, or all that was read."""
        self._begin()
        if self._thought and self._overruns >= _OVERRUNS:
            return self._refuse()
        if (lead := (yield from self._lead())) is not None:
            matched, name, end = lead
            self._source.take(end)
            return (yield from self._rest(self._finish((yield from self._plain(matched, name)))))
        if self._source.cut and self._source.ended and self._nearly():
            self._drop_rest()
            return True
        opened = yield from self._open_envelope()
        if opened is None:
            if self._source.ended and self._source.cut and self._source.at >= len(self._source.text):
                self._drop_rest()
                return True
            return self._refuse()
        return (yield from self._items(opened))

    def read_whole(self, call: Call) -> Steps[bool]:
        """Calls without any mark, which are the whole answer."""
        self._begin()
        return (yield from self._items(call))

    def read_body(self, name: str, ends: tuple[str, ...]) -> Steps[None]:
        """A message that is a call's arguments; what follows them up to one of `ends` is left for the caller."""
        self._begin()
        self._thought = False
        self._start(name)
        source = self._source
        complete = yield from self._json()
        while complete:
            char = yield from source.peek()
            if not char:
                complete = not source.cut
                break
            if char in ends or (yield from source.starts(ends)):
                break
            source.take(source.at + 1)
        self._finish(complete)

    @property
    def names(self) -> Collection[str]:
        """Names of the tools."""
        return self._schemas

    # ------------------------------------------------------------ one attempt

    def _begin(self) -> None:
        self._thought = self._outlet.reasoning
        self._pieces, self._name, self._started, self._fenced = [], "", False, False
        self._source.record()
        self._outlet.hold()

    def _start(self, name: str) -> None:
        self._name = name
        self._started = True
        self._outlet.start(name)
        if not self._thought:
            self._outlet.commit()
            self._source.recorded()

    def _put(self, text: str) -> None:
        if self._thought:
            self._pieces.append(text)
        self._outlet.arguments(text)

    def _finish(self, complete: bool) -> bool:
        """The arguments are over. False when what was read is no call."""
        if self._thought and not (complete and self._fits()):
            return self._refuse()
        if complete:
            self._outlet.end()
        else:
            self._outlet.cut = True
            self._source.take(len(self._source.text))  # half an escape or half a mark: nothing that could be shown
        if self._thought:
            self._outlet.think(False)
            self._outlet.commit()
            self._source.recorded()
        return True

    def _refuse(self) -> bool:
        """What was read is text; at least the mark that it began with."""
        source = self._source
        self._outlet.drop()
        raw = source.recorded()
        if not raw and source.at < len(source.text):
            word = self._reading.text.match(source.text, source.at)
            raw = source.take(word.end() if word else source.at + 1)
        close = self._reading.thinking.close if self._thought and self._reading.thinking else ""
        if close and (place := raw.find(close)) >= 0:
            # The thought ended while the call was open: only the thought's part is thought.
            source.give_back(raw[place:])
            self._overruns += 1
            raw = raw[:place]
        self._outlet.text(self._bound.shown(raw))
        return False

    def _drop_rest(self) -> None:
        """The answer was cut off before anything of a call was certain: half a mark is nobody's text."""
        source = self._source
        if self._thought:
            self._refuse()
            self._outlet.text(self._bound.shown(source.take(len(source.text))))
            return
        source.take(len(source.text))
        self._outlet.drop()
        source.recorded()

    def _fits(self) -> bool:
        schema = self._schemas.get(self._name)
        if schema is None:
            return False
        try:
            arguments = json.loads("".join(self._pieces))
        except (ValueError, RecursionError):
            return False
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        return isinstance(arguments, dict) and all(name in arguments for name in names)

    # ------------------------------------------------------------ name first

    def _lead(self) -> Steps[tuple[Lead, str, int] | None]:
        """The spelling that matches here, the name and where the arguments begin."""
        source = self._source
        while True:
            for lead in self._reading.leads:
                found = _match(lead, source)
                if found is None:
                    continue
                if found == "more":
                    break
                assert not isinstance(found, str)
                self._fenced = found[2]
                return lead, found[0], found[1]
            else:
                return None
            if source.ended:
                return self._named_only()
            yield

    def _named_only(self) -> tuple[Lead, str, int] | None:
        """At the end of the answer: a tool's name without arguments is a call without arguments."""
        if self._source.cut:
            return None
        for lead in self._reading.leads:
            found = _match(lead, self._source, at_end=True)
            if found is not None and not isinstance(found, str) and found[0] in self._schemas:
                return lead, found[0], found[1]
        return None

    def _nearly(self) -> bool:
        """Whether the text ends inside what may become a call."""
        source = self._source
        if any(_match(lead, source) == "more" for lead in self._reading.leads):
            return True
        rest = source.text[source.at :]
        for opener, _ in self._reading.envelopes:
            for word in opener:
                rest = rest.removeprefix(word).lstrip()
            if not rest or any(word.startswith(rest) for word in _FENCES):
                return True
        return False

    def _plain(self, lead: Lead, name: str) -> Steps[bool]:
        """Arguments behind a name."""
        if self._thought and name not in self._schemas:
            return False
        self._start(name)
        char = yield from self._source.peek()
        if lead.syntax == "xml":
            schema = self._schemas.get(name, {})
            reader = Parameters(self._source, self._put, self._reading.ends, self._bound.shown, schema, strict=self._thought)
            return (yield from reader.read())
        if not char or (lead.syntax == "json" and char not in '{"'):
            self._put("{}")
            return not (self._source.cut and not char)
        complete = yield from (self._json() if lead.syntax == "json" else self._value("gemma"))
        return complete and (yield from self._settled(lead.call))

    def _value(self, syntax: Syntax) -> Steps[bool]:
        return (yield from Value(self._source, self._put, self._reading.notations[syntax], call=True).read())

    def _json(self) -> Steps[bool]:
        """Arguments in JSON; a string that holds them is unwrapped."""
        source = self._source
        char = yield from source.skip()
        if char == "{":
            return (yield from self._value("json"))
        parts: list[str] = []
        if not (yield from Value(source, parts.append, self._reading.notations["json"]).read()):
            return False
        self._put(self._unwrapped("".join(parts)))
        return True

    def _unwrapped(self, written: str) -> str:
        """Arguments as the object that clients expect: the one that a string holds, or what there is under the name `input`."""
        if written[:1] == "{":
            return written
        text = json.loads(written).strip() if written[:1] == '"' else written
        if text in ("", "null"):
            return "{}"
        if written[:1] != '"' or text[:1] not in ("{", "["):
            return f'{{"input": {written}}}'
        parts: list[str] = []
        for _ in Value(Source(text, ended=True), parts.append, self._reading.notations["json"]).read():
            pass
        return self._unwrapped("".join(parts))

    def _settled(self, call: Call) -> Steps[bool]:
        """Whether the call is closed: with marks that end it, arguments alone are not enough when the answer was cut off."""
        if not call.after.strip("} \n"):
            return True
        source = self._source
        char = yield from source.skip()
        if not char:
            return not source.cut and not self._thought
        word = yield from source.starts((*self._reading.closers, "```"))
        rest = source.text[source.at :]
        if not word and source.ended and source.cut and len(rest) < LOOK:
            return not any(closer.startswith(rest) for closer in self._reading.closers)
        if word == "```" and self._fenced:
            source.take(source.at + 3)
            self._fenced = False
            return (yield from self._settled(call))
        return True

    def _rest(self, called: bool) -> Steps[bool]:
        """Closing marks behind a call, and calls that follow without an opening one."""
        source = self._source
        while called and not self._outlet.cut:
            yield from self._close()
            chained = tuple(word for lead in self._reading.leads for kind, word in lead.opener if kind == "maybe")
            commas = tuple(comma + word for comma in (",", ", ", ";", "; ") for word in chained)
            word = yield from source.starts((*chained, *commas))
            if not word:
                break
            if word in commas:
                source.take(source.at + len(word) - len(word.lstrip(",; ")))
            self._begin()
            lead = yield from self._lead()
            if lead is None:
                self._outlet.drop()
                source.recorded()
                break
            source.take(lead[2])
            called = self._finish((yield from self._plain(lead[0], lead[1])))
        return called

    def _close(self) -> Steps[bool]:
        """Take the marks that close a call; True when there were any."""
        source, closed = self._source, False
        while True:
            yield from source.skip()
            words = self._reading.closers if self._fenced else tuple(w for w in self._reading.closers if w != "```")
            word = yield from source.starts((*words, "```") if self._fenced else words)
            if not word:
                return closed
            self._fenced = self._fenced and word != "```"
            source.take(source.at + len(word))
            closed = True

    # ------------------------------------------------------------ objects that hold the name

    def _open_envelope(self) -> Steps[Call | None]:
        """Take the marks and the fence before an object; None when no object follows."""
        source = self._source
        for opener, call in self._reading.envelopes:
            if not opener or (yield from source.starts(opener[:1])) != opener[0]:
                continue
            for word in opener:
                yield from source.skip()
                if (yield from source.starts((word,))):
                    source.take(source.at + len(word))
            yield from source.skip()
            if fence := (yield from source.starts(_FENCES)):
                source.take(source.at + len(fence))
                self._fenced = True
            char = yield from source.skip()
            return call if char and char in "{[" else None
        return None

    def _items(self, call: Call) -> Steps[bool]:
        """Objects and Python calls, one or several, in a list or not."""
        source, first, listed = self._source, True, False
        while True:
            char = yield from source.skip(SPACES if first else SPACES + ",;")
            if not first and char and char in "{[":
                self._begin()
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
                    self._begin()
                read = yield from self._python(call)
            elif first:
                return self._refuse()
            else:
                if listed and char == "]":
                    source.take(source.at + 1)
                yield from self._close()
                return True
            if not read:
                return not first
            if self._outlet.cut:
                return True
            first = False
            if not call.whole and not listed and (yield from self._close()):
                return True

    def _python(self, call: Call) -> Steps[bool]:
        """f(a=1), in a list."""
        source = self._source
        while not source.ended and (found := NAME.match(source.text, source.at)) and found.end() == len(source.text):
            yield
        found = NAME.match(source.text, source.at)
        if found is None or source.text[found.end() : found.end() + 1] != "(" or found[0] not in self._schemas:
            return self._refuse()
        source.take(found.end())
        self._start(found[0])
        return self._finish((yield from Value(source, self._put, self._reading.notations["gemma"], call=True).read()))

    def _envelope(self, call: Call) -> Steps[bool]:
        """One object with name and arguments."""
        fields = Fields()
        complete = yield from self._fields(fields, call)
        if self._started:
            return self._finish(complete and (yield from self._settled(call)))
        source = self._source
        at_end = source.ended and source.at >= len(source.text)
        if at_end and fields.arguments is None and fields.name not in self._schemas:
            fields.name = ""
        if not fields.name or (call.whole and fields.arguments is None):
            if source.cut and at_end and fields.plausible and not self._thought and not call.whole:
                self._drop_rest()
                self._outlet.commit()
                return True
            return self._refuse()
        if not complete:
            if self._thought:
                return self._refuse()
            self._start(fields.name)
            return self._finish(False)
        self._start(fields.name)
        self._put(self._unwrapped(fields.arguments or "{}"))
        return self._finish((yield from self._settled(call)))

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
                not name or len(name) > LOOK * 4 or (name not in self._schemas and (call.whole or self._thought))
            ):
                fields.plausible = name is None
                return False
            fields.name = name
            return True
        if (key == arguments or key in _ARGUMENT_KEYS) and not self._started and fields.arguments is None:
            if fields.name:
                self._start(fields.name)
                return (yield from self._json())
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


def _named(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """A tool's name and the schema of its arguments."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        return "", {}
    schema = function.get("parameters")
    return str(function.get("name") or ""), schema if isinstance(schema, Mapping) else {}


def _match(lead: Lead, source: Source, at_end: bool = False) -> tuple[str, int, bool] | str | None:
    """(name, where the arguments begin, whether behind a fence); "more" when that depends on what follows; None: no match."""
    openers = lead.opener
    for index, (_, word) in enumerate(openers):
        if not source.text.startswith(word, source.at):
            continue
        steps: tuple[Step, ...] = (*openers[index:], ("name", ""), *lead.behind)
        return _walk(steps, lead, source, at_end)
    return None


def _walk(steps: tuple[Step, ...], lead: Lead, source: Source, at_end: bool) -> tuple[str, int, bool] | str | None:
    text, at, name, fenced = source.text, source.at, "", False
    for kind, word in steps:
        start = at
        while at < len(text) and text[at] in SPACES and at - start < LOOK:
            at += 1
        here = text[at : at + max(len(word), 1)]
        if kind in ("word", "maybe") and here == word:
            at += len(word)
            fenced = fenced or word.startswith("```")
        elif at + len(here) >= len(text) and word.startswith(here) and not source.ended:
            return "more"
        elif at >= len(text) and not at_end:
            return "more" if not (lead.syntax == "xml" and name and source.ended and not source.cut) else (name, at, fenced)
        elif kind == "word":
            return "more" if source.cut and word.startswith(here) and at + len(here) >= len(text) else None
        elif kind == "name":
            found = NAME.match(text, at)
            if found is None:
                return None
            if found.end() == len(text) and not at_end:
                return "more"
            name, at = found[0], found.end()
        elif kind == "id" and here == word[: len(here)] and here:
            found = NAME.match(text, at + len(word))
            at = found.end() if found else at + len(word)
            if at == len(text) and not at_end:
                return "more"
    return _begins(lead, source, name, at, fenced, at_end)


def _begins(lead: Lead, source: Source, name: str, at: int, fenced: bool, at_end: bool) -> tuple[str, int, bool] | str | None:
    """Whether arguments begin at `at`."""
    text = source.text
    while at < len(text) and text[at] in SPACES:
        at += 1
    if at >= len(text):
        done = at_end or (lead.syntax == "xml" and source.ended)
        return (name, at, fenced) if done else "more"
    # A mark that ends the call right behind its name: it has no arguments.
    closed = any(text.startswith(word, at) for word in lead.closers)
    return (name, at, fenced) if text[at] in lead.begins or (closed and name) else None
