"""Reading a JSON schema that a client sent: is it one, and what of it constrains anything? Knows no grammar and no notation.

What only describes (titles, defaults, keys that no standard knows) is left out. What constrains but has no place in any grammar
is left out too and named, so that the result is checked afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenwell.chat.conversation import ChatError

TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")
MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_BYTES = 512 * 1024
MAX_REPEATS = 65_536  # of items and characters: larger bounds cost the matcher more than they give
MAX_BRANCHES = 300  # values of an enum, properties of an object: the matcher follows them side by side, up to 2000 items

Schema = Any  # a dict or a bool
_SUBSCHEMAS = ("additionalProperties", "additionalItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_CHECKED = (
    "not",
    "if",
    "contains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
)


@dataclass(frozen=True)
class Read:
    """A schema of constraints alone, and the places of what was left out although it constrains."""

    schema: Schema
    left_out: tuple[str, ...]


@dataclass
class _Reader:
    root: Any
    where: str
    left_out: list[str] = field(default_factory=list)
    nodes: int = 0


def read(schema: object, where: str) -> Read:
    """Raises ChatError with the place, beginning with `where`, of what is no schema, points nowhere or is too large."""
    reader = _Reader(schema, where)
    result = _node(reader, schema, where, 0)
    _check_ends(result, result, where, ())
    size = len(json.dumps(result))
    if size > MAX_BYTES:
        raise ChatError(f"`{where}` is too large: {size} bytes without descriptions; {MAX_BYTES} are allowed.", where)
    return Read(result, tuple(reader.left_out))


def referred(reference: str, root: Schema) -> Schema | None:
    """What a local reference points at; None when it points nowhere."""
    if reference in ("#", "#/"):
        return root
    if not reference.startswith("#/"):
        return None
    place = root
    for step in reference[2:].split("/"):
        key = _unquoted(step)
        if isinstance(place, Mapping) and key in place:
            place = place[key]
        elif isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        else:
            return None
    return place if isinstance(place, dict | bool) else None


def _check_ends(node: Schema, root: Schema, where: str, seen: tuple[int, ...]) -> None:
    """Raise ChatError for references that come back to themselves with no value in between: nothing can be written for them."""
    if not isinstance(node, dict):
        return
    if id(node) in seen or len(seen) > MAX_DEPTH:
        raise ChatError(f"`{where}` refers to itself without end.", where)
    here = (*seen, id(node))
    if "$ref" in node:
        _check_ends(referred(node["$ref"], root), root, f"{where}.$ref" if not seen else where, here)
    for key in ("anyOf", "oneOf", "allOf"):
        for index, part in enumerate(node.get(key, ())):
            _check_ends(part, root, where if seen else f"{where}.{key}[{index}]", here)
    if seen:
        return
    for key in _MAPS:
        for name, part in node.get(key, {}).items():
            _check_ends(part, root, f"{where}.{key}.{name}", ())
    for key in ("items", "additionalProperties"):
        _check_ends(node.get(key), root, f"{where}.{key}", ())


def _unquoted(step: str) -> str:
    from urllib.parse import unquote

    return unquote(step).replace("~1", "/").replace("~0", "~")


def _node(reader: _Reader, schema: object, where: str, depth: int) -> Schema:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise ChatError(f"`{where}` is no JSON schema: it must be an object or a boolean.", where)
    reader.nodes += 1
    if depth > MAX_DEPTH or reader.nodes > MAX_NODES:
        limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_NODES} parts"
        raise ChatError(f"`{reader.where}` is too large a schema: more than {limit}.", reader.where)
    result: dict[str, Any] = {}
    for key, value in schema.items():
        place = f"{where}.{key}"
        if read_keyword := _KEYWORDS.get(key):
            read_keyword(reader, result, key, value, place)
        elif key in _SUBSCHEMAS:
            result[key] = _node(reader, value, place, depth + 1)
        elif key == "properties" and isinstance(value, dict) and len(value) > MAX_BRANCHES:
            reader.left_out.append(place)
        elif key in _MAPS:
            result[key] = _map(reader, value, place, depth)
        elif key in _LISTS:
            result[key] = _list(reader, value, place, depth)
        elif key == "items":
            if isinstance(value, list):  # before 2020-12 a list of items was what is called prefixItems now
                result["prefixItems"] = _list(reader, value, place, depth)
            else:
                result[key] = _node(reader, value, place, depth + 1)
        elif key in _CHECKED and value is not None:
            reader.left_out.append(place)
    return _modern(result, schema)


def _modern(result: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Older ways of saying things as today's standard says them."""
    rest = result.pop("additionalItems", None)
    if rest is not None and "prefixItems" in result and "items" not in result:
        result["items"] = rest
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(result.get(exclusive), bool) and result.pop(exclusive) and inclusive in result:
            result[exclusive] = result.pop(inclusive)
    if schema.get("nullable") is True and isinstance(kinds := result.get("type"), str | list):  # OpenAPI's word
        result["type"] = list(dict.fromkeys([*([kinds] if isinstance(kinds, str) else kinds), "null"]))
        if isinstance(result.get("enum"), list) and None not in result["enum"]:
            result["enum"] = [*result["enum"], None]
    return result


def _map(reader: _Reader, value: object, where: str, depth: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ChatError(f"`{where}` must be an object whose values are schemas.", where)
    return {name: _node(reader, part, f"{where}.{name}", depth + 1) for name, part in value.items()}


def _list(reader: _Reader, value: object, where: str, depth: int) -> list[Any]:
    if not isinstance(value, list) or (not value and not where.endswith(("items", "prefixItems"))):
        raise ChatError(f"`{where}` must be a list of schemas with at least one entry.", where)
    return [_node(reader, part, f"{where}[{index}]", depth + 1) for index, part in enumerate(value)]


# ---------------------------------------------------------------- keywords whose values are no schemas


def _type(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    kinds = value if isinstance(value, list) else [value]
    unknown = [kind for kind in kinds if kind not in TYPES]
    if unknown or not kinds:
        shown = json.dumps(unknown[0] if unknown else value)[:60]
        raise ChatError(f"`{where}`: {shown} is no type of JSON schemas; known are {', '.join(TYPES)}.", where)
    result[key] = value


def _reference(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    if not isinstance(value, str) or not value.startswith("#"):
        raise ChatError(
            f"`{where}` must be a reference into the same schema, such as #/$defs/name; others are not fetched.", where
        )
    if referred(value, reader.root) is None:
        raise ChatError(f"`{where}`: {value[:100]} points at nothing in this schema.", where)
    result[key] = value


def _enum(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    if not isinstance(value, list) or not value:
        raise ChatError(f"`{where}` must be a list with at least one value.", where)
    if len(value) > MAX_BRANCHES:
        reader.left_out.append(where)
        return
    result[key] = value


def _const(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    result[key] = value


def _required(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    if isinstance(value, bool):  # how some write it inside a property; it says nothing there
        return
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ChatError(f"`{where}` must be a list of property names.", where)
    result[key] = list(dict.fromkeys(value))


def _text(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    if not isinstance(value, str):
        raise ChatError(f"`{where}` must be a text.", where)
    result[key] = value


def _count(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise ChatError(f"`{where}` must be a whole number that is not negative.", where)
    if value <= MAX_REPEATS:
        result[key] = int(value)
    elif key == "minLength" or key == "minItems" or key == "minProperties" or value < 2**20:
        reader.left_out.append(where)
    # A bound of a million or more is never reached: the window ends before.


def _number(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    old = isinstance(value, bool) and key.startswith("exclusive")
    if not old and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ChatError(f"`{where}` must be a number.", where)
    if key == "multipleOf" and isinstance(value, int | float) and value <= 0:
        raise ChatError(f"`{where}` must be greater than 0.", where)
    if key == "multipleOf" and value != 1 and isinstance(value, float):
        reader.left_out.append(where)  # decimal fractions have no exact binary value
        return
    result[key] = value


def _unique(reader: _Reader, result: dict[str, Any], key: str, value: object, where: str) -> None:
    if value is True:
        reader.left_out.append(where)


_Keyword = Callable[[_Reader, dict[str, Any], str, object, str], None]
_KEYWORDS: dict[str, _Keyword] = {
    "type": _type,
    "$ref": _reference,
    "enum": _enum,
    "const": _const,
    "required": _required,
    "pattern": _text,
    "format": _text,
    "uniqueItems": _unique,
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(_NUMBERS, _number),
}
