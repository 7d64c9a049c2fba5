"""The incremental machine from generated text to events; a format is a table that it follows. One object a stream."""

from __future__ import annotations

from collections.abc import Sequence

from tokenwell.chat.events import Event
from tokenwell.chat.formats.format import Format


class Parser:
    """Turns text into events: however a text is cut, the events' texts concatenate to the same."""

    def __init__(self, format: Format) -> None:
        self._format = format
        self._state = format.start

    def feed(self, text: str, ids: Sequence[int]) -> list[Event]:
        """Events that are certain after `text`, which the tokens `ids` brought (either may be empty)."""
        return [self._format.states[self._state](text)] if text else []

    def finish(self) -> list[Event]:
        """Events for what was held back at the end."""
        return []
