"""Tool schemas in the narrow shape that some templates insist on: every part with one type, described by text or not at all.

Such templates (Gemma 4's) read `type` of every property without looking; agents send anyOf, const, lists of types, references
and empty schemas. The narrow form says less than the original, so it is used only where the original cannot be rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenwell.chat.arguments.kinds import KINDS, referred

_DEPTH = 16  # references may be circular; what lies deeper is called an object
_UNIONS = ("anyOf", "oneOf", "allOf")


def narrow_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with narrow parameters and a description that is text."""
    function = dict(tool.get("function") or {})
    parameters = function.get("parameters")
    root = parameters if isinstance(parameters, dict) else {}
    description = function.get("description")
    function["description"] = description if isinstance(description, str) else ""
    function["parameters"] = {"properties": {}, **narrow(root, root, _DEPTH), "type": "object"}
    return {**tool, "function": function}


def narrow(schema: object, root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """One schema with exactly one type; `root` is where its references point into."""
    if depth == 0:
        return {"type": "object"}
    result = _resolved(schema, root)
    types = result.get("type")
    names = [name for name in (types if isinstance(types, list) else [types]) if isinstance(name, str)]
    kinds = [name for name in names if name != "null"]
    result["type"] = kinds[0] if kinds else _guess(result)
    if "null" in names:
        result["nullable"] = True
    if not isinstance(result.get("description", ""), str):
        del result["description"]
    if isinstance(properties := result.get("properties"), dict):
        result["properties"] = {name: narrow(part, root, depth - 1) for name, part in properties.items()}
    if "items" in result:
        result["items"] = narrow(result["items"], root, depth - 1)
    return result


def _resolved(schema: object, root: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which references and unions have become their first alternative that is not null."""
    result = dict(schema) if isinstance(schema, dict) else {}
    for _ in range(_DEPTH):
        if isinstance(reference := result.pop("$ref", None), str):
            place = referred(reference, root)
            result = {**(place if isinstance(place, Mapping) else {}), **result}
            continue
        union = next((name for name in _UNIONS if name in result), None)
        if union is None:
            break
        parts = result.pop(union)
        parts = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if any(part.get("type") == "null" for part in parts):
            result["nullable"] = True
        result = {**next((part for part in parts if part.get("type") != "null"), {}), **result}
    return result


def _guess(schema: Mapping[str, Any]) -> str:
    """The type that a schema without one must mean."""
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    values = schema.get("enum")
    example = schema.get("const", values[0] if isinstance(values, list) and values else "")
    return KINDS.get(type(example), "string")
