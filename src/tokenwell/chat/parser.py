"""The incremental machine from generated text to events; a format is a table that it follows. One object a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenwell.chat.events import Content, Event
from tokenwell.chat.formats.bound import Bound


class Parser:
    """Turns text into events: however a text is cut, the events' texts concatenate to the same.

    `tools`: what may be called; without any, nothing is a call. `reasoning`: the answer starts inside reasoning. `id`: call ids
    are made from it, so that a replay of the same answer gives the same ones.
    """

    def __init__(self, format: Bound, tools: Sequence[Mapping[str, Any]] = (), reasoning: bool = False, id: str = "") -> None:
        self.called = False  # a call is complete and none was cut off
        self.reasoning = reasoning  # what comes now is reasoning

    def feed(self, text: str) -> list[Event]:
        """Events that are certain after `text`, in which marks are the characters that `Bound.marks` gives them."""
        return [Content(text)] if text else []

    def finish(self, cut: bool = False) -> list[Event]:
        """Events for what was held back at the end; `cut`: the answer ended because it was long enough."""
        return []
