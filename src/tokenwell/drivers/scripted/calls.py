"""Arguments of a scripted call in the order in which grammars want them. Knows no chat format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arranged(value: Any, schema: Any) -> Any:
    """`value` with its keys in the schema's order, in which grammars want them; keys that the schema does not name come last."""
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, dict) else None
        return [arranged(item, items) for item in value]
    if not isinstance(value, dict):
        return value
    properties = _properties(schema, value)
    keys = [*(key for key in properties if key in value), *(key for key in value if key not in properties)]
    return {key: arranged(value[key], properties.get(key)) for key in keys}


def _properties(schema: Any, value: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of a schema, or of the first of its alternatives that names every key of `value`."""
    if not isinstance(schema, dict):
        return {}
    own = schema.get("properties")
    if isinstance(own, dict):
        return own
    options = [option for word in ("anyOf", "oneOf", "allOf") for option in schema.get(word) or ()]
    found = [_properties(option, value) for option in options]
    return next((each for each in found if each and each.keys() >= value.keys()), {})
