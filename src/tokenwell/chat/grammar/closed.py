"""Objects that name their properties get no others.

JSON Schema allows further properties unless a schema forbids them, and few authors of tools do. A model that may invent arguments
sometimes does, and never means to. What is written without them is valid all the same.
"""

from __future__ import annotations

from typing import Any

# Beside these, `properties` is not the whole list.
_OPENS = frozenset(
    {
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "dependentSchemas",
        "dependentRequired",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "$ref",
        "$dynamicRef",
    }
)


def closed(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever an object lists its properties and nothing else speaks of them."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    properties = schema.get("properties")
    if isinstance(properties, dict):
        result["properties"] = {name: closed(value) for name, value in properties.items()}
        required = schema.get("required")
        named = not isinstance(required, list) or all(name in properties for name in required if isinstance(name, str))
        if named and _OPENS.isdisjoint(schema):
            result["additionalProperties"] = False
    if "items" in schema:
        result["items"] = closed(schema["items"])
    return result
