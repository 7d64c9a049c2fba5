"""Calls read from where a mark says that one may begin. What does not read as a call is given back as text.

Which spelling it is, is decided here; `leads` match what stands before arguments, `envelopes` read objects that hold the name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenwell.chat.arguments.source import Source, Steps
from tokenwell.chat.arguments.xml import Parameters
from tokenwell.chat.attempt import FENCES, Attempt
from tokenwell.chat.envelopes import Envelopes
from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.format import Call
from tokenwell.chat.formats.reading import Lead
from tokenwell.chat.leads import Match, match
from tokenwell.chat.outlet import Outlet


class Calls:
    """Reads calls of one answer from its source into its outlet."""

    def __init__(self, bound: Bound, tools: Sequence[Mapping[str, Any]], source: Source, outlet: Outlet) -> None:
        self._bound = bound
        self._reading = bound.reading
        self._source = source
        self._outlet = outlet
        self._attempt = Attempt(bound, tools, source, outlet)
        self._envelopes = Envelopes(bound.reading, source, outlet, self._attempt)

    def read(self) -> Steps[bool]:
        """Read what a trigger opens. False when it is no call: then its first mark was given as text, or all that was read."""
        self._attempt.begin()
        if self._attempt.hopeless:
            return self._attempt.refuse()
        if (found := (yield from self._lead())) is not None:
            return (yield from self._rest((yield from self._call(*found))))
        if self._source.cut and self._source.ended and self._nearly():
            self._attempt.drop_rest()
            return True
        opened = yield from self._envelopes.open()
        if opened is None:
            if self._source.ended and self._source.cut and self._source.at >= len(self._source.text):
                self._attempt.drop_rest()
                return True
            return self._attempt.refuse()
        return (yield from self._envelopes.read(opened))

    def read_whole(self, call: Call) -> Steps[bool]:
        """Calls without any mark, which are the whole answer."""
        self._attempt.begin()
        return (yield from self._envelopes.read(call))

    def read_body(self, name: str, ends: tuple[str, ...]) -> Steps[None]:
        """A message that is a call's arguments; what follows them up to one of `ends` is left for the caller."""
        self._attempt.begin()
        self._attempt.thought = False
        self._attempt.start(name)
        source = self._source
        yield from self._attempt.fence()
        complete = yield from self._attempt.json()
        while complete:
            char = yield from source.peek()
            if not char:
                complete = not source.cut
                break
            if char in ends or (yield from source.starts(ends)):
                break
            source.take(source.at + 1)
        self._attempt.finish(complete)

    @property
    def names(self) -> Collection[str]:
        """Names of the tools."""
        return self._attempt.schemas

    def _lead(self) -> Steps[tuple[Lead, Match] | None]:
        """The lead that matches here."""
        source = self._source
        while True:
            for lead in self._reading.leads:
                found = match(lead, source)
                if found is None:
                    continue
                if found == "more":
                    break
                return lead, found
            else:
                return None
            if source.ended:
                return self._named_only()
            yield

    def _named_only(self) -> tuple[Lead, Match] | None:
        """At the end of the answer: a tool's name without arguments is a call without arguments."""
        if self._source.cut:
            return None
        for lead in self._reading.leads:
            found = match(lead, self._source, at_end=True)
            if isinstance(found, Match) and found.name in self._attempt.schemas:
                return lead, found
        return None

    def _nearly(self) -> bool:
        """Whether the text ends inside what may become a call."""
        source = self._source
        if any(match(lead, source) == "more" for lead in self._reading.leads):
            return True
        rest = source.text[source.at :]
        for opener, _ in self._reading.envelopes:
            for word in opener:
                rest = rest.removeprefix(word).lstrip()
            if not rest or any(word.startswith(rest) for word in FENCES):
                return True
        return False

    def _call(self, lead: Lead, found: Match) -> Steps[bool]:
        """One call whose lead was found; False when it is none."""
        self._source.take(found.arguments_at)
        self._attempt.fenced = found.fenced
        return self._attempt.finish((yield from self._arguments(lead, found.name)))

    def _arguments(self, lead: Lead, name: str) -> Steps[bool]:
        """Arguments behind a name; False when they were cut off."""
        if self._attempt.thought and name not in self._attempt.schemas:
            return False
        self._attempt.start(name)
        char = yield from self._source.peek()
        if lead.syntax == "xml":
            schema = self._attempt.schemas.get(name, {})
            ends, strict = self._reading.ends, self._attempt.thought
            reader = Parameters(self._source, self._attempt.put, ends, self._bound.shown, schema, strict=strict)
            return (yield from reader.read())
        if char not in lead.begins:
            self._attempt.put("{}")
            return not (self._source.cut and not char)
        complete = yield from (self._attempt.json() if lead.syntax == "json" else self._attempt.value("gemma"))
        return complete and (yield from self._attempt.settled(lead.call))

    def _rest(self, called: bool) -> Steps[bool]:
        """Closing marks behind a call, and calls that follow without an opening one."""
        source = self._source
        while called and not self._outlet.cut:
            yield from self._attempt.close()
            chained = tuple(word for lead in self._reading.leads for kind, word in lead.opener if kind == "maybe")
            commas = tuple(comma + word for comma in (",", ", ", ";", "; ") for word in chained)
            word = yield from source.starts((*chained, *commas))
            if not word:
                break
            if word in commas:
                source.take(source.at + len(word) - len(word.lstrip(",; ")))
            self._attempt.begin()
            found = yield from self._lead()
            if found is None:
                self._outlet.drop()
                source.recorded()
                break
            called = yield from self._call(*found)
        return called
