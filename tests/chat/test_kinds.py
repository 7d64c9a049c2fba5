"""What the text of a parameter is as JSON, by its tool's schema."""

from __future__ import annotations

from typing import Any

import pytest

from tokenwell.chat.arguments.kinds import kinds, named, typed, unnamed

CIRCULAR: dict[str, Any] = {"$defs": {"J": {"anyOf": [{"$ref": "#/$defs/J"}] * 8 + [{"type": "array"}, {"type": "null"}]}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, set()),
        (True, set()),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"enum": [1, "a", None]}, {"integer", "string", "null"}),
        ({"const": True}, {"boolean"}),
        ({"properties": {}}, {"object"}),
        ({"items": {}}, {"array"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"anyOf": [{"type": "string"}, {}]}, set()),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, {"string"}),
        ({"$ref": "#/$defs/J"}, {"array", "null"}),
        ({"$ref": "#/nowhere"}, set()),
    ],
)
def test_kinds_of_a_schema(schema: object, expected: set[str]) -> None:
    assert kinds(schema, CIRCULAR) == expected


def test_properties_are_found_wherever_a_schema_lists_them() -> None:
    schema = {
        "$ref": "#/$defs/A",
        "$defs": {"A": {"properties": {"a": 1}, "anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#"}]}},
        "properties": {"b": 2},
        "allOf": [{"properties": {"b": 3, "c": 4}}, None],
    }
    assert named(schema) == {"a": [1], "b": [2, 3], "c": [4]}


def test_other_properties_are_those_of_patterns_before_any_others() -> None:
    schema = {"patternProperties": {"^n": {"type": "integer"}, "(?<": {}}, "additionalProperties": {"type": "boolean"}}
    assert unnamed(schema, "n1") == [{"type": "integer"}]
    assert unnamed(schema, "x") == [{"type": "boolean"}]
    assert unnamed({"additionalProperties": False}, "x") == []
    assert unnamed({"patternProperties": 3, "additionalProperties": True}, "x") == []


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        ("5", {"integer"}, "5"),
        ("5.0", {"integer"}, "5"),
        ("007", set(), '"007"'),
        ("1e999", {"number"}, "1.7976931348623157e308"),
        ("-1e999", set(), "-1.7976931348623157e308"),
        ("[1, -1e999]", {"array"}, "[1, -1.7976931348623157e308]"),
        ("1e400", {"string", "null"}, '"1e400"'),
        ("NaN", {"number"}, '"NaN"'),
        ('["\\ud83d"]', {"array"}, '["\ufffd"]'),
        ('["\\ud83d\\ude00"]', {"array"}, '["\\ud83d\\ude00"]'),
        ("{'a': None}", {"object"}, '{"a": null}'),
        ("None", {"string", "null"}, "null"),
        ("yes", {"boolean"}, "true"),
    ],
)
def test_text_as_json(text: str, types: set[str], expected: str) -> None:
    assert typed(text, frozenset(types)) == expected
