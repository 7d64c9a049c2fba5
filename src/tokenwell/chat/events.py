"""What a generated answer consists of, in order, whatever the model's chat format. Every dialect is a view of these."""

from __future__ import annotations

import msgspec


class Reasoning(msgspec.Struct, frozen=True, tag=True):
    """A piece of thinking."""

    text: str


class Content(msgspec.Struct, frozen=True, tag=True):
    """A piece of the visible answer."""

    text: str


class ToolStart(msgspec.Struct, frozen=True, tag=True):
    """A tool call opens; its arguments follow."""

    index: int
    id: str
    name: str


class ToolArguments(msgspec.Struct, frozen=True, tag=True):
    """A piece of the arguments' JSON text."""

    index: int
    text: str


class ToolEnd(msgspec.Struct, frozen=True, tag=True):
    """The call is complete: its argument pieces concatenate to valid JSON."""

    index: int


Event = Reasoning | Content | ToolStart | ToolArguments | ToolEnd
