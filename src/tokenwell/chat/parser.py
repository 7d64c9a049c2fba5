"""The incremental machine from generated text to events; a format is a table that it follows. One object a stream.

Owns reasoning, content and where a call may begin. What a call says is read by `calls`, messages with headers by `channels`.
Knows no tokens: marks arrive as characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenwell.chat.arguments.source import Source, Steps
from tokenwell.chat.calls import Calls
from tokenwell.chat.channels import Messages
from tokenwell.chat.events import Event
from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.outlet import Outlet
from tokenwell.chat.quoting import Quoting


class Parser:
    """Turns text into events: however a text is cut, the events' texts concatenate to the same.

    `tools`: what may be called; without any, nothing is a call. `reasoning`: the answer starts inside reasoning. `id`: call ids
    are made from it, so that a replay of the same answer gives the same ones.
    """

    def __init__(self, format: Bound, tools: Sequence[Mapping[str, Any]] = (), reasoning: bool = False, id: str = "") -> None:
        self._bound = format
        self._reading = format.reading
        self._source = Source()
        self._outlet = Outlet(id, reasoning)
        self._calls = Calls(format, tools, self._source, self._outlet) if tools else None
        self._quoting = Quoting() if self._reading.quotable else None
        self._shown = False  # a mark was shown as text, so the one that closes it is text too
        self._steps = self._answer()

    @property
    def called(self) -> bool:
        """A call is complete and none was cut off."""
        return self._outlet.complete > 0 and not self._outlet.cut

    @property
    def reasoning(self) -> bool:
        """What comes now is reasoning."""
        return self._outlet.reasoning

    def feed(self, text: str) -> list[Event]:
        """Events that are certain after `text`, in which marks are the characters that `Bound.marks` gives them."""
        if not text or self._source.ended:
            return []
        self._source.add(text)
        next(self._steps, None)
        return self._outlet.drain()

    def finish(self, cut: bool = False) -> list[Event]:
        """Events for what was held back at the end; `cut`: the answer ended because it was long enough."""
        if self._source.ended:
            return []
        self._source.ended, self._source.cut = True, cut
        next(self._steps, None)
        self._outlet.close()
        return self._outlet.drain()

    def _answer(self) -> Steps[None]:
        if self._reading.channels is not None:
            yield from Messages(self._bound, self._reading.channels, self._source, self._outlet, self._calls).read()
            return
        if self._reading.thinking is not None and self._outlet.reasoning:
            yield from self._label()
        if self._reading.whole is not None and self._calls is not None:
            char = yield from self._source.skip_into(self._outlet.text)
            if char and char in "{[":
                yield from self._calls.read_whole(self._reading.whole)
        yield from self._text()

    def _text(self) -> Steps[None]:
        """Reasoning and content, up to the end."""
        source, pattern, words = self._source, self._reading.text, self._reading.words
        while True:
            found = pattern.search(source.text, source.at)
            end = found.start() if found else len(source.text)
            if end > source.at:
                self._give(source.take(end))
            if found is None or (found[0] not in words and source.ended):
                if source.ended:
                    self._give(source.take(len(source.text)))
                    return
                yield
            elif found[0] not in words or (yield from self._longer(found[0])):
                yield
            else:
                yield from self._mark(found[0])

    def _longer(self, word: str) -> Steps[bool]:
        """Whether `word` at the end of the text may become a longer mark."""
        source = self._source
        at_end = source.at + len(word) == len(source.text) and not source.ended
        return at_end and any(len(other) > len(word) and other.startswith(word) for other in self._reading.words)
        yield

    def _mark(self, word: str) -> Steps[None]:
        """What a mark means here."""
        outlet, thinking = self._outlet, self._reading.thinking
        token = len(word) == 1
        if not token and (yield from self._quoted(word)):
            self._shown = self._shown or word in self._reading.triggers
            self._give(self._source.take(self._source.at + len(word)))
        elif thinking is not None and word == thinking.open and (token or outlet.fresh or outlet.reasoning):
            self._source.take(self._source.at + len(word))
            if not outlet.reasoning:
                self._turn(True)
            yield from self._label()
        elif thinking is not None and word == thinking.close:
            self._source.take(self._source.at + len(word))
            if outlet.reasoning or outlet.fresh:
                self._turn(False)
        elif self._calls is not None and word in self._reading.triggers:
            if (yield from self._calls.read()):
                self._shown = False
                self._restart_quoting()
            else:
                self._shown = True
        elif self._calls is not None and word in self._reading.ends and not self._shown and not outlet.reasoning:
            self._source.take(self._source.at + len(word))
        else:
            if word in self._reading.ends:
                self._shown = False
            self._give(self._source.take(self._source.at + len(word)))

    def _quoted(self, word: str) -> Steps[bool]:
        """Whether the mark is shown, not meant.

        A thought ends at its mark even when a fence or a backtick was left open in it: all of the answer would be lost inside.
        """
        quoting, source, thinking = self._quoting, self._source, self._reading.thinking
        if quoting is None:
            return False
        closer = quoting.closer
        ends_thought = thinking is not None and word == thinking.close and self._outlet.reasoning
        if not ends_thought:
            return quoting.fenced or closer != ""
        if not closer:
            return False
        while source.at + len(word) >= len(source.text) and not source.ended:
            yield
        return source.text.startswith(closer, source.at + len(word))

    def _turn(self, reasoning: bool) -> None:
        self._outlet.think(reasoning)
        self._restart_quoting()

    def _restart_quoting(self) -> None:
        if self._quoting is not None:
            self._quoting = Quoting()

    def _give(self, text: str) -> None:
        if self._quoting is not None:
            self._quoting.add(text)
        self._outlet.text(self._bound.shown(text))

    def _label(self) -> Steps[None]:
        """Drop the label that some formats put at the beginning of a thought; its line break may be missing before a mark."""
        thinking, source = self._reading.thinking, self._source
        if thinking is None or not thinking.label:
            return
        label, bare = thinking.label, thinking.label.rstrip()
        while True:
            here = source.text[source.at : source.at + len(label)]
            if here == label or (here[: len(bare)] == bare and (here[len(bare) :] or " ")[0] == thinking.close[0]):
                source.take(source.at + (len(label) if here == label else len(bare)))
                return
            if not label.startswith(here):
                return
            if source.ended:
                if here == bare or source.cut:
                    source.take(source.at + len(here))
                return
            yield
