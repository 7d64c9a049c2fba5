"""Tool schemas narrowed for templates that read a type everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.chat.schemas import narrow_tool


def narrowed(schema: object, **root: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"x": schema}, **root}
    tool = narrow_tool({"type": "function", "function": {"name": "f", "parameters": parameters}})
    return tool["function"]["parameters"]["properties"]["x"]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "minLength": 1}, {"type": "string", "minLength": 1}),
        ({"type": ["null", "integer"]}, {"type": "integer", "nullable": True}),
        ({"type": "null"}, {"type": "string", "nullable": True}),
        (
            {"anyOf": [{"type": "null"}, {"type": "number"}], "description": "d"},
            {"type": "number", "nullable": True, "description": "d"},
        ),
        ({"oneOf": [{"anyOf": [{"const": 3}]}]}, {"type": "integer", "const": 3}),
        ({"const": True}, {"type": "boolean", "const": True}),
        ({"enum": ["a", 1]}, {"type": "string", "enum": ["a", 1]}),
        ({"description": None}, {"type": "string"}),
        ({}, {"type": "string"}),
        (True, {"type": "string"}),
        ({"items": {}}, {"type": "array", "items": {"type": "string"}}),
        ({"properties": {"y": {"anyOf": []}}}, {"type": "object", "properties": {"y": {"type": "string"}}}),
        ({"$ref": "#/$defs/Nowhere"}, {"type": "string"}),
        ({"$ref": "#/$defs/P", "description": "d"}, {"type": "number", "description": "d"}),
    ],
)
def test_narrow(schema: object, expected: dict[str, Any]) -> None:
    assert narrowed(schema, **{"$defs": {"P": {"type": "number"}}}) == expected


def test_circular_references_end() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    assert narrowed({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": node}})["properties"]["next"]["type"] == "object"
    assert narrowed({"$ref": "#/$defs/A"}, **{"$defs": {"A": {"$ref": "#/$defs/A"}}})["type"] == "string"


def test_functions_without_parameters_or_description() -> None:
    tool = narrow_tool({"type": "function", "function": {"name": "f", "description": None}})
    assert tool["function"] == {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "null", "#/x", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "anyOf", "allOf", "$ref", "items", "properties", "enum", "const", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def every_part_has_a_type(schema: dict[str, Any]) -> bool:
    parts = list(schema["properties"].values()) if isinstance(schema.get("properties"), dict) else []
    parts += [schema["items"]] if "items" in schema else []
    return isinstance(schema["type"], str) and all(map(every_part_has_a_type, parts))


@given(JSON)
def test_every_part_of_any_schema_gets_one_type(schema: object) -> None:
    assert every_part_has_a_type(narrowed(schema))
