"""Where what was read becomes events: white space around reasoning and calls is dropped, calls are counted and get their ids."""

from __future__ import annotations

import hashlib

from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart


class Outlet:
    """The events of one answer, in order.

    White space at the end of a text is held back until something follows: text keeps it, a call or a change between reasoning
    and content drops it, the end of the answer gives it.
    """

    def __init__(self, id: str, reasoning: bool) -> None:
        self.reasoning = reasoning  # text is reasoning now, otherwise content
        self.fresh = True  # no content came since the beginning, the last reasoning or the last call
        self.cut = False  # a call was cut off
        self.complete = 0  # calls with an end
        self._id = id
        self._events: list[Event] = []
        self._held: list[Event] | None = None
        self._pieces: list[str] = []  # arguments that are not an event yet: one feed gives one event of them
        self._spaces: list[str] = []
        self._dropping = reasoning  # white space that comes now stands beside reasoning or a call
        self._index = -1

    def drain(self) -> list[Event]:
        """The events since the last time."""
        self._gather()
        events, self._events = self._events, []
        return events

    def text(self, text: str) -> None:
        """A piece of reasoning or content."""
        if self._dropping:
            text = text.lstrip()
            if not text:
                return
            self._dropping = False
        body = text.rstrip()
        if not body:
            if text:
                self._spaces.append(text)
            return
        if self._spaces:
            self._spaces.append(body)
            given = "".join(self._spaces)
            self._spaces = []
        else:
            given = body
        if len(body) < len(text):
            self._spaces.append(text[len(body) :])
        self._gather()
        if self.reasoning:
            self._events.append(Reasoning(given))
        else:
            self.fresh = False
            self._events.append(Content(given))

    def think(self, reasoning: bool) -> None:
        """Reasoning begins or ends."""
        self.reasoning = reasoning
        self.fresh = True
        self._boundary()

    def _boundary(self) -> None:
        self._spaces = []
        self._dropping = True

    def hold(self) -> None:
        """Keep the events of calls back until `commit`, or forget them with `drop`."""
        self._held = []

    def commit(self) -> None:
        """What was held back is certain."""
        self._gather()
        held, self._held = self._held, None
        if held:
            self._boundary()
            self.fresh = True
            self._events += held

    def drop(self) -> None:
        """What was held back is no call."""
        self._pieces = []
        if self._held is not None and any(isinstance(event, ToolStart) for event in self._held):
            self._index -= 1
        self._held = None

    def start(self, name: str) -> None:
        """A call begins."""
        self._index += 1
        digest = hashlib.sha256(f"{self._id} {self._index}".encode("utf-8", "surrogatepass")).hexdigest()
        self._call(ToolStart(self._index, f"call_{digest[:24]}", name))

    def arguments(self, text: str) -> None:
        """A piece of the call's arguments."""
        if text:
            self._pieces.append(text)

    def _gather(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            (self._events if self._held is None else self._held).append(ToolArguments(self._index, "".join(pieces)))

    def end(self) -> None:
        """The call is complete."""
        self._call(ToolEnd(self._index))
        self.complete += 1

    def _call(self, event: Event) -> None:
        self._gather()
        if self._held is not None:
            self._held.append(event)
            return
        if isinstance(event, ToolStart):
            self._boundary()
            self.fresh = True
        self._events.append(event)

    def close(self) -> None:
        """The answer is over: white space at its end is part of it."""
        if self._spaces and not self._dropping:
            self._events.append((Reasoning if self.reasoning else Content)("".join(self._spaces)))
        self._spaces = []
