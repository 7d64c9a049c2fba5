"""Events as the Chat dialect's messages and deltas. Knows the dialect's fields, not its envelopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolStart

Json = dict[str, Any]


def delta_of(events: Sequence[Event], reasoning_fields: Sequence[str]) -> Json:
    """What the events of one step add to a message. Each call is named once, however many of its events there are."""
    delta: Json = {}
    calls: dict[int, Json] = {}
    for event in events:
        if isinstance(event, Content):
            _append(delta, "content", event.text)
        elif isinstance(event, Reasoning):
            for name in reasoning_fields:
                _append(delta, name, event.text)
        elif isinstance(event, ToolStart):
            function: Json = {"name": event.name, "arguments": ""}
            calls[event.index] = {"index": event.index, "id": event.id, "type": "function", "function": function}
        elif isinstance(event, ToolArguments):
            call = calls.setdefault(event.index, {"index": event.index, "function": {"arguments": ""}})
            call["function"]["arguments"] += event.text
    if calls:
        delta["tool_calls"] = list(calls.values())
    return delta


def message_of(events: Sequence[Event], reasoning_fields: Sequence[str]) -> Json:
    """The whole message; its content is null beside calls without text."""
    delta = delta_of(events, reasoning_fields)
    calls = [{name: value for name, value in call.items() if name != "index"} for call in delta.pop("tool_calls", ())]
    content = delta.pop("content", None if calls else "")
    message: Json = {"role": "assistant", "content": content, "refusal": None, **delta}
    if calls:
        message["tool_calls"] = calls
    return message


def _append(delta: Json, name: str, text: str) -> None:
    delta[name] = delta.get(name, "") + text
