"""What a client that takes the dialect's types at their word would say: the SDK's models, validated strictly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def check_response(response: Any) -> Response:
    """The response as the SDK's type; fails the test when a field is missing or of another type."""
    return Response.model_validate_json(msgspec.json.encode(response), strict=True)


def check_events(events: Sequence[Any]) -> None:
    """A whole stream: every event is of the union, numbers rise by one, and items open and close in order."""
    for event in events:
        _EVENT.validate_json(msgspec.json.encode(event), strict=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    final = events[-1]
    assert final["type"] in ("response.completed", "response.incomplete", "response.failed")
    assert not [
        event for event in events[:-1] if event["type"] in ("response.completed", "response.incomplete", "response.failed")
    ]
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert added == list(range(len(added)))
    output = final["response"]["output"]
    assert len(output) == len(added)
    for event in events:
        if event["type"] == "response.output_item.done":
            assert event["item"] == output[event["output_index"]]
        if "item_id" in event:
            assert event["item_id"] == output[event["output_index"]]["id"]


def joined(events: Sequence[Any], type_: str, index: int) -> str:
    """All deltas of one kind for one item."""
    return "".join(event["delta"] for event in events if event["type"] == type_ and event["output_index"] == index)
