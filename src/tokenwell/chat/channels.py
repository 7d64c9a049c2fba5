"""Messages behind headers (harmony): channel and recipient decide what a body is. Strays are read over up to the next mark."""

from __future__ import annotations

import re

from tokenwell.chat.arguments.source import Source, Steps
from tokenwell.chat.calls import Calls
from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.format import Channels
from tokenwell.chat.outlet import Outlet

_RECIPIENT = re.compile(r"\bto=([\w.\-/:$@]{1,200})")
_HEADER = 1000  # characters of a header that are looked at
# What an answer that was cut off in its first header consists of.
_UNMARKED = re.compile(r"\s*(?:assistant|analysis|commentary|final)?(?:\s+to=\S*)?\s*\Z")


class Messages:
    """Reads the messages of one answer."""

    def __init__(self, bound: Bound, channels: Channels, source: Source, outlet: Outlet, calls: Calls | None) -> None:
        self._bound = bound
        self._channels = channels
        self._source = source
        self._outlet = outlet
        self._calls = calls
        self._ends = (*channels.ends, channels.start, channels.channel)
        marks = (*self._ends, channels.message, channels.constrain)
        begun = {mark[:size] for mark in marks for size in range(1, len(mark))}
        ordered = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
        tail = "|".join(map(re.escape, sorted(begun, key=len, reverse=True)))
        self._pattern = re.compile(ordered + (rf"|(?:{tail})\Z" if tail else ""))
        self._marks = frozenset(marks)
        self._longest = max(map(len, marks))

    def read(self) -> Steps[None]:
        """All messages. The answer begins inside a header, or in a body when the prompt left one open."""
        body = self._outlet.reasoning or (yield from self._bare())
        while True:
            if not body:
                header = yield from self._header()
                if header is None:
                    return
                kind, recipient = self._meaning(header)
                if recipient is not None and not (yield from self._recipient(recipient, kind)):
                    body = False
                    continue
                if recipient is None:
                    self._turn(kind)
            body = False
            if not (yield from self._body(shown=True)):
                return

    def _turn(self, kind: str) -> None:
        if self._outlet.reasoning is not (kind == "reasoning"):
            self._outlet.think(kind == "reasoning")

    def _bare(self) -> Steps[bool]:
        """Whether the answer begins with text where a header should: too long for one, or without any mark up to the end."""
        source = self._source
        while True:
            found = self._pattern.search(source.text, source.at)
            if found is not None and found[0] in self._marks:
                return found.start() - source.at > _HEADER
            if len(source.text) - source.at >= _HEADER + self._longest:
                return True
            if source.ended:
                return not source.cut or _UNMARKED.match(source.text, source.at) is None
            yield

    def _header(self) -> Steps[str | None]:
        """A header's text with its last channel mark; None when the answer ends before its message mark."""
        header, channels = "", self._channels
        while True:
            text, mark = yield from self._piece()
            header = (header + text)[:_HEADER]
            if mark == channels.message:
                return header
            if mark == "":
                if self._source.ended:
                    return None
            elif mark == channels.start or mark in channels.ends:
                header = ""
            elif mark == channels.channel:
                recipient = _RECIPIENT.search(header)
                header = (f" to={recipient[1]} " if recipient else "") + channels.channel
            else:
                header += " "

    def _piece(self) -> Steps[tuple[str, str]]:
        """Text, and the mark behind it, both taken; no mark ("") while none has come."""
        source = self._source
        while True:
            found = self._pattern.search(source.text, source.at)
            end = found.start() if found else len(source.text)
            text = source.take(end)
            if found is not None and found[0] in self._marks:
                source.take(found.end())
                return text, found[0]
            if source.ended:
                return text + source.take(len(source.text)), ""
            if text:
                return text, ""
            yield

    def _meaning(self, header: str) -> tuple[str, str | None]:
        """What the body is, and whom the message is for."""
        before, _, channel = header.partition(self._channels.channel)
        name = re.match(r"\s*(\w*)", channel)
        kinds = dict(self._channels.kinds)
        found = _RECIPIENT.search(channel) or _RECIPIENT.search(before)
        recipient = found[1] if found and found[1] not in ("assistant", "user", "all") else None
        return kinds.get(name[1] if name else "", "content"), recipient

    def _recipient(self, recipient: str, kind: str) -> Steps[bool]:
        """A message for a tool. True when its body is to be read as text, as there are no tools."""
        if self._calls is None:
            self._turn(kind)
            return True
        if self._outlet.reasoning:
            self._outlet.think(False)
        prefix = self._channels.recipient
        known = recipient in self._calls.names
        name = recipient if known else recipient.removeprefix(prefix)
        if known or (name and name != recipient):
            yield from self._calls.read_body(name, self._ends)
        else:
            yield from self._body(shown=False)
        return False

    def _body(self, shown: bool) -> Steps[bool]:
        """A message's text up to its end; False at the end of the answer."""
        source = self._source
        while True:
            text, mark = yield from self._piece()
            if shown and text:
                self._outlet.text(self._bound.shown(text))
            if mark == "" and source.ended:
                return False
            if mark in self._ends:
                if mark in (self._channels.start, self._channels.channel):
                    source.at -= len(mark)  # it begins the next header
                return True
