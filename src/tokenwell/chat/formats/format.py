"""What a chat format is to the parser: named states, and the event that text becomes in each. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenwell.chat.events import Content, Reasoning


@dataclass(frozen=True)
class Format:
    """A table: `states` says what text is while the machine is in a state; `start` is the state before any text."""

    name: str
    start: str
    states: Mapping[str, type[Content] | type[Reasoning]]
