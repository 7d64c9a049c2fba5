"""Making a schema fit what the grammar backend can express: what it complains of is taken out, as little as possible."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from tokenwell.chat.grammar.lark import SPELLED, Rules, complaint, inline_json
from tokenwell.chat.grammar.schema import Read

MAX_TRIALS = 400  # validations spent on one schema: about half a millisecond each

# In the order of suspicion.
_SUSPECTS = (
    "format",
    "pattern",
    "oneOf",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "multipleOf",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "required",
    "additionalProperties",
    "enum",
    "const",
    "allOf",
    "anyOf",
    "prefixItems",
    "items",
    "properties",
    "$ref",
    "type",
)
# Keywords that can be wrong alone, and the type that they are about; the others are about numbers.
_LEAVES = ("pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_MEANT = {"pattern": "string", "format": "string"}


def fit(read: Read, where: str) -> Read:
    """The same schema without what cannot be expressed, and all places that have to be checked afterwards."""
    if _complaint(read.schema) is None:
        return read
    schema = copy.deepcopy(read.schema)
    left_out = [*read.left_out, *_loosen_leaves(schema, where)]
    trials = 0
    while (wrong := _complaint(schema)) is not None:
        for node, key, place in _candidates(schema, where):
            trials += 1
            if trials > MAX_TRIALS:
                break
            held = dict(node)
            _loosen(node, key)
            if _complaint(schema) != wrong:
                left_out.append(f"{place}.{key}")
                break
            node.clear()
            node.update(held)
        else:
            loosened = _loosen_everywhere(schema, where, wrong)
            left_out += loosened
            trials = trials if loosened else MAX_TRIALS + 1
        if trials > MAX_TRIALS:
            return Read({"type": "object"} if _is_object(read.schema) else True, (*left_out, where))
    return Read(schema, tuple(left_out))


def _complaint(schema: Any) -> str | None:
    """The complaint's first line, or the lines of a regex's; the rest quotes the grammar, which changes with every trial."""
    wrong = complaint(Rules().text(inline_json(schema, SPELLED)))
    return None if wrong is None else wrong.partition("\n   1 |")[0]


def _loosen_leaves(schema: Any, where: str) -> list[str]:
    """Take out what cannot be expressed by itself, whatever stands around it; returns the places."""
    places = []
    for node, place in _nodes(schema, where):
        for key in _LEAVES:
            if key in node and _complaint({"type": node.get("type", _MEANT.get(key, "number")), key: node[key]}) is not None:
                _loosen(node, key)
                places.append(f"{place}.{key}")
    return places


def _loosen_everywhere(schema: Any, where: str, wrong: str) -> list[str]:
    """Take one keyword out of all nodes, if that helps: several nodes may be wrong in the same way."""
    for key in _SUSPECTS:
        held = [(node, dict(node), place) for node, place in _nodes(schema, where) if key in node]
        for node, _, _ in held:
            _loosen(node, key)
        if held and _complaint(schema) != wrong:
            return [f"{place}.{key}" for _, _, place in held]
        for node, before, _ in held:
            node.clear()
            node.update(before)
    return []


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def _loosen(node: dict[str, Any], key: str) -> None:
    """Take one keyword out of a node; of `oneOf` only that no two may match."""
    value = node.pop(key)
    if key == "oneOf" and "anyOf" not in node:
        node["anyOf"] = value


def _candidates(schema: Any, where: str) -> list[tuple[dict[str, Any], str, str]]:
    """Every keyword of every node, the most suspicious first."""
    nodes = list(_nodes(schema, where))
    return [(node, key, place) for key in _SUSPECTS for node, place in nodes if key in node]


def _nodes(schema: Any, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every node below and including this one, with its place; the deepest first."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        place = f"{where}.{key}"
        if key in ("properties", "patternProperties", "$defs", "definitions"):
            for name, part in value.items():
                yield from _nodes(part, f"{place}.{name}")
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            for index, part in enumerate(value):
                yield from _nodes(part, f"{place}[{index}]")
        elif key in ("items", "additionalProperties"):
            yield from _nodes(value, place)
    yield schema, where
