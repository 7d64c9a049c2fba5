"""A schema as plain shapes: references followed, unions spread, intersections merged. For notations that are not JSON.

What a merge cannot say exactly is said more widely and named. Knows no notation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenwell.chat.grammar.schema import referred

_DEPTH = 24  # of references and unions inside each other without anything between; deeper ones accept everything
_MOST = 64  # alternatives of one value
_LARGER = ("minLength", "minItems", "minimum", "exclusiveMinimum", "minProperties")
_SMALLER = ("maxLength", "maxItems", "maximum", "exclusiveMaximum", "maxProperties")
_UNIONS = ("anyOf", "oneOf")


@dataclass
class Shapes:
    """Shapes of the nodes of one schema. `widened` collects the keywords that were said more widely."""

    root: Any
    widened: list[str] = field(default_factory=list)

    def of(self, node: Any) -> list[dict[str, Any]]:
        """The alternatives of a node, without references and unions: each has one `type`, or `enum`, or neither (anything)."""
        found = [shape for flat in self._flat(node, 0) for shape in _typed(flat)]
        if len(found) > _MOST:
            self.widened.append("anyOf")
            return [{}]
        distinct = {json.dumps(shape, sort_keys=True): shape for shape in found}
        return [{}] if {} in found else list(distinct.values())

    def _flat(self, node: Any, depth: int) -> Iterator[dict[str, Any]]:
        if node is False:
            return
        if node is True:
            yield {}
            return
        if depth > _DEPTH:
            self.widened.append("$ref")
            yield {}
            return
        base = {key: value for key, value in node.items() if key not in ("$defs", "definitions")}
        if "$ref" in base:
            target = referred(base.pop("$ref"), self.root)
            yield from self._flat(self._merged(target, base) if base else target, depth + 1)
        elif "allOf" in base:
            merged: Any = {key: value for key, value in base.items() if key != "allOf"}
            for part in base["allOf"]:
                merged = self._merged(merged, self._plain(part, depth))
            yield from self._flat(merged, depth + 1)
        elif union := next((key for key in _UNIONS if key in base), None):
            parts = base.pop(union)
            if union == "oneOf" and not _disjoint(parts):
                self.widened.append("oneOf")
            for part in parts:
                yield from self._flat(self._merged(base, self._plain(part, depth)) if base else part, depth + 1)
        else:
            yield base

    def _plain(self, node: Any, depth: int) -> Any:
        """A node without a reference at its top."""
        for _ in range(_DEPTH - depth):
            if not isinstance(node, dict) or "$ref" not in node:
                return node
            rest = {key: value for key, value in node.items() if key != "$ref"}
            target = referred(node["$ref"], self.root)
            node = self._merged(target, rest) if rest else target
        return True

    def _merged(self, first: Any, second: Any) -> Any:
        """What both allow."""
        if first is False or second is False:
            return False
        if first is True or second is True:
            return second if first is True else first
        result = dict(first)
        for key, value in second.items():
            if key not in result or result[key] == value:
                result[key] = value
            elif key == "required":
                result[key] = list(dict.fromkeys([*result[key], *value]))
            elif key == "type":
                result[key] = _common_types(result[key], value)
            elif key == "enum":
                result[key] = [each for each in result[key] if each in value]
            elif key in _LARGER:
                result[key] = max(result[key], value)
            elif key in _SMALLER:
                result[key] = min(result[key], value)
            elif key in ("items", "additionalProperties"):
                result[key] = self._merged(result[key], value)
            elif key in ("allOf", *_UNIONS):
                result["allOf"] = [*result.get("allOf", []), {key: value}] if key != "allOf" else [*result[key], *value]
            elif key not in ("properties", "$defs", "definitions", "$ref"):
                self.widened.append(key)
        if "properties" in first or "properties" in second:
            result["properties"] = self._properties(first, second)
        return result

    def _properties(self, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
        mine, other = first.get("properties", {}), second.get("properties", {})
        result: dict[str, Any] = {}
        for name in {**mine, **other}:
            left = mine.get(name, first.get("additionalProperties", True))
            right = other.get(name, second.get("additionalProperties", True))
            if left is True or right is True or left == right:
                result[name] = self._merged(left, right)
            else:
                result[name] = False if False in (left, right) else {"allOf": [left, right]}
        return result


def _typed(flat: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One shape a type; values that are listed are filtered by type instead."""
    kinds = flat.get("type")
    names = [kinds] if isinstance(kinds, str) else kinds
    if "const" in flat or "enum" in flat:
        values = [flat["const"]] if "const" in flat else flat["enum"]
        fitting = [value for value in values if names is None or any(is_type(value, name) for name in names)]
        if "const" in flat and "enum" in flat:
            fitting = [value for value in fitting if value in flat["enum"]]
        if fitting:
            yield {"enum": fitting}
        return
    for name in names if names is not None else _guessed(flat):
        yield {**flat, "type": name} if name else {}


def _guessed(flat: dict[str, Any]) -> list[str]:
    """Without a type, keywords bind only values of their type; who writes them means that type."""
    if "properties" in flat or "required" in flat or "additionalProperties" in flat or "patternProperties" in flat:
        return ["object"]
    if "items" in flat or "prefixItems" in flat or "minItems" in flat or "maxItems" in flat:
        return ["array"]
    if "pattern" in flat or "minLength" in flat or "maxLength" in flat or "format" in flat:
        return ["string"]
    if any(key in flat for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")):
        return ["number"]
    return [""]


def is_type(value: object, name: str) -> bool:
    """Whether a JSON value is of a type of JSON schemas."""
    if name == "integer":
        return isinstance(value, int | float) and not isinstance(value, bool) and value == int(value)
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    kinds: dict[str, type] = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}
    return isinstance(value, kinds[name])


def _common_types(first: str | list[str], second: str | list[str]) -> list[str]:
    left = [first] if isinstance(first, str) else first
    right = [second] if isinstance(second, str) else second
    common = [name for name in left if name in right or (name == "integer" and "number" in right)]
    return common + [name for name in right if name == "integer" and "number" in left and name not in common]


def _disjoint(parts: list[Any]) -> bool:
    """Whether no value can be of two of these: all have types, and no type twice."""
    names: list[str] = []
    for part in parts:
        kinds = part.get("type") if isinstance(part, dict) else None
        if kinds is None:
            return False
        names += [kinds] if isinstance(kinds, str) else kinds
    return len(names) == len(set(names)) and not {"integer", "number"} <= set(names)
