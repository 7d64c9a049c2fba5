"""Which objects get no further properties."""

from __future__ import annotations

from typing import Any

import pytest

from tokenwell.chat.grammar.closed import closed

INNER = {"type": "object", "properties": {"b": {"type": "integer"}}}


def test_lists_of_properties_are_complete_at_every_depth() -> None:
    schema = {"type": "object", "properties": {"a": INNER, "l": {"type": "array", "items": INNER}, "none": {"properties": {}}}}
    found = closed(schema)
    shut = INNER | {"additionalProperties": False}
    assert found["additionalProperties"] is False and "additionalProperties" not in schema
    assert found["properties"] == {
        "a": shut,
        "l": {"type": "array", "items": shut},
        "none": {"properties": {}, "additionalProperties": False},
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": {"a": {}}, "additionalProperties": True},
        {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"properties": {"a": {}}, "patternProperties": {"^x": {}}},
        {"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}, "required": ["b"]}]},
        {"properties": {"a": {}}, "required": ["elsewhere"]},
        {"anyOf": [INNER, {"type": "null"}]},
        {"$ref": "#/$defs/x", "$defs": {"x": INNER}},
        True,
        {"properties": []},
    ],
)
def test_what_may_have_more_stays_open(schema: Any) -> None:
    assert closed(schema) == schema
