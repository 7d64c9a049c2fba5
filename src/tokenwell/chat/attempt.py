"""One attempt at reading a call: its events are held until it is certain, and what proves to be no call is given back as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenwell.chat.arguments.source import LOOK, Source, Steps
from tokenwell.chat.arguments.values import Value
from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.format import Call, Syntax
from tokenwell.chat.outlet import Outlet

FENCES = ("```json", "```")
_BRACKETS = re.compile(rf"[\]}});][\]}});\s]{{0,{LOOK}}}")
# So often may a call that never closes run over the end of a thought and be read again: what is read twice stays bounded.
_OVERRUNS = 4


class Attempt:
    """The call that is being read, and what all spellings of calls do alike. One object an answer."""

    def __init__(self, bound: Bound, tools: Sequence[Mapping[str, Any]], source: Source, outlet: Outlet) -> None:
        self.schemas = {name: schema for name, schema in map(_named, tools) if name}
        self.thought = False  # we are inside reasoning, where only a complete and fitting call counts
        self.started = False
        self.fenced = False  # a code fence was opened around the call
        self._bound = bound
        self._reading = bound.reading
        self._source = source
        self._outlet = outlet
        self._pieces: list[str] = []  # the arguments, kept only inside reasoning
        self._name = ""
        self._overruns = 0

    @property
    def hopeless(self) -> bool:
        """No further call is looked for inside this thought."""
        return self.thought and self._overruns >= _OVERRUNS

    def begin(self) -> None:
        """What comes now may be a call."""
        self.thought = self._outlet.reasoning
        self._pieces, self._name, self.started, self.fenced = [], "", False, False
        self._source.record()
        self._outlet.hold()

    def start(self, name: str) -> None:
        """It calls this tool. Outside of reasoning that is enough to be certain."""
        self._name = name
        self.started = True
        self._outlet.start(name)
        if not self.thought:
            self._outlet.commit()
            self._source.recorded()

    def put(self, text: str) -> None:
        """A piece of the arguments' JSON."""
        if self.thought:
            self._pieces.append(text)
        self._outlet.arguments(text)

    def finish(self, complete: bool) -> bool:
        """The arguments are over. False when what was read is no call."""
        if self.thought and not (complete and self._fits()):
            return self.refuse()
        if complete:
            self._outlet.end()
        else:
            self._outlet.cut = True
            self._source.take(len(self._source.text))  # half an escape or half a mark: nothing that could be shown
        if self.thought:
            self._outlet.think(False)
            self._outlet.commit()
            self._source.recorded()
        return True

    def refuse(self) -> bool:
        """What was read is text; at least the mark that it began with."""
        source = self._source
        self._outlet.drop()
        raw = source.recorded()
        if not raw and source.at < len(source.text):
            word = self._reading.text.match(source.text, source.at)
            raw = source.take(word.end() if word else source.at + 1)
        close = self._reading.thinking.close if self.thought and self._reading.thinking else ""
        if close and (place := raw.find(close)) >= 0:
            # The thought ended while the call was open: only the thought's part is thought.
            source.give_back(raw[place:])
            self._overruns += 1
            raw = raw[:place]
        self._outlet.text(self._bound.shown(raw))
        return False

    def drop_rest(self) -> None:
        """The answer was cut off before anything of a call was certain: half a mark is nobody's text."""
        source = self._source
        if self.thought:
            self.refuse()
            self._outlet.text(self._bound.shown(source.take(len(source.text))))
            return
        source.take(len(source.text))
        self._outlet.drop()
        source.recorded()

    def _fits(self) -> bool:
        """Whether a tool of this name takes such arguments."""
        schema = self.schemas.get(self._name)
        if schema is None:
            return False
        try:
            arguments = json.loads("".join(self._pieces))
        except (ValueError, RecursionError):
            return False
        required = schema.get("required")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        return isinstance(arguments, dict) and all(name in arguments for name in names)

    def value(self, syntax: Syntax) -> Steps[bool]:
        """Arguments in a notation, as they are written; False when they were cut off."""
        return (yield from Value(self._source, self.put, self._reading.notations[syntax], call=True).read())

    def json(self) -> Steps[bool]:
        """Arguments in JSON; a string that holds them is unwrapped."""
        source = self._source
        char = yield from source.skip()
        if char == "{":
            return (yield from self.value("json"))
        parts: list[str] = []
        if not (yield from Value(source, parts.append, self._reading.notations["json"]).read()):
            return False
        self.put(self.unwrapped("".join(parts)))
        return True

    def unwrapped(self, written: str) -> str:
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
        return self.unwrapped("".join(parts))

    def fence(self) -> Steps[None]:
        """Take the opening of a code fence, if there is one."""
        source = self._source
        yield from source.skip()
        if word := (yield from source.starts(FENCES)):
            source.take(source.at + len(word))
            self.fenced = True

    def settled(self, call: Call) -> Steps[bool]:
        """Whether the call is closed: with marks that end it, arguments alone are not enough when the answer was cut off."""
        if not call.after.strip("} \n"):
            return True
        source = self._source
        char = yield from source.skip()
        if not char:
            return not source.cut and not self.thought
        word = yield from source.starts((*self._reading.closers, "```"))
        rest = source.text[source.at :]
        if not word and source.ended and source.cut and len(rest) < LOOK:
            return not any(closer.startswith(rest) for closer in self._reading.closers)
        if word == "```" and self.fenced:
            source.take(source.at + 3)
            self.fenced = False
            return (yield from self.settled(call))
        return True

    def close(self) -> Steps[bool]:
        """Take the marks that close a call; True when there were any."""
        source, closed = self._source, False
        yield from self._brackets()
        while True:
            yield from source.skip()
            words = self._reading.closers if self.fenced else tuple(w for w in self._reading.closers if w != "```")
            word = yield from source.starts((*words, "```") if self.fenced else words)
            if not word:
                return closed
            self.fenced = self.fenced and word != "```"
            source.take(source.at + len(word))
            closed = True

    def _brackets(self) -> Steps[None]:
        """Take brackets too many: those before a mark that closes the call, another call, or the end of the answer."""
        source = self._source
        yield from source.skip()
        while (found := _BRACKETS.match(source.text, source.at)) and found.end() == len(source.text) and not source.ended:
            yield
        if found is None:
            return
        taken = source.take(found.end())
        if source.at < len(source.text) and not (yield from source.starts((*self._reading.closers, *self._reading.triggers))):
            source.give_back(taken)


def _named(tool: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """A tool's name and the schema of its arguments."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping):
        return "", {}
    schema = function.get("parameters")
    return str(function.get("name") or ""), schema if isinstance(schema, Mapping) else {}
