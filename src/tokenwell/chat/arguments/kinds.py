"""What JSON a raw text between tags is, by what the tool's schema says of it. Knows no tags."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenwell.chat.arguments.notation import Notation, quoted
from tokenwell.chat.arguments.source import Source
from tokenwell.chat.arguments.values import Value

_UNIONS = ("anyOf", "oneOf", "allOf")
KINDS: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def named(schema: Mapping[str, Any]) -> dict[str, list[object]]:
    """Property -> its schemas, for every name that an object's schema or one that it is made of lists."""
    found: dict[str, list[object]] = {}
    for each in _made_of(schema):
        if isinstance(properties := each.get("properties"), Mapping):
            for name, part in properties.items():
                found.setdefault(name, []).append(part)
    return found


def unnamed(schema: Mapping[str, Any], name: str) -> list[object]:
    """Schemas of a property that is listed nowhere: those of the patterns that it matches, else what any other may be."""
    found: list[object] = []
    for each in _made_of(schema):
        patterns = each.get("patternProperties")
        patterns = patterns if isinstance(patterns, Mapping) else {}
        matching = [part for pattern, part in patterns.items() if _matches(pattern, name)]
        additional = each.get("additionalProperties")
        found += matching or ([additional] if isinstance(additional, Mapping) else [])
    return found


def _made_of(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema, and all that its references and unions lead to; each reference once, as they may be circular."""
    waiting: list[object] = [schema]
    seen = {"#", "#/"}  # the schema itself
    while waiting:
        each = waiting.pop(0)
        if not isinstance(each, Mapping):
            continue
        yield each
        reference = each.get("$ref")
        if isinstance(reference, str) and reference not in seen:
            seen.add(reference)
            waiting.append(referred(reference, schema))
        for union in _UNIONS:
            if isinstance(parts := each.get(union), list):
                waiting += parts


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:  # a pattern of another dialect says nothing here
        return False


def kinds(schema: object, root: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types that a schema allows; empty, which means all of them, when it does not say."""
    return frozenset(_kinds(schema, root, set()) or ())


def _kinds(schema: object, root: Mapping[str, Any], seen: set[str]) -> set[str] | None:
    """The types; None for a reference that was followed before, so that circular ones cost nothing."""
    if not isinstance(schema, Mapping):
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        if reference in seen:
            return None
        seen.add(reference)
        return _kinds(referred(reference, root), root, seen)
    types = schema.get("type")
    if isinstance(types, str):
        found = {types}
    elif isinstance(types, list):
        found = {name for name in types if isinstance(name, str)}
    elif isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        found = {KINDS.get(type(value), "null") for value in values}
    else:
        united = _united(schema, root, seen)
        if united is None:
            return set()
        found = united or ({"object"} if "properties" in schema else {"array"} if "items" in schema else set())
    return found | {"null"} if schema.get("nullable") is True else found


def _united(schema: Mapping[str, Any], root: Mapping[str, Any], seen: set[str]) -> set[str] | None:
    """The types of the parts of unions; None when an alternative may be anything."""
    found: set[str] = set()
    for union in _UNIONS:
        if isinstance(parts := schema.get(union), list):
            each = [types for part in parts if (types := _kinds(part, root, seen)) is not None]
            if union != "allOf" and not all(each):
                return None
            found = found.union(*each)
    return found


def referred(reference: str, root: Mapping[str, Any]) -> object:
    """What a local reference such as #/$defs/Point points at; None when it points nowhere."""
    place: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            place = place.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(place, Mapping) else None
    return place


def typed(text: str, types: frozenset[str]) -> str:
    """A value's text as JSON of one of these types (empty: of any); a text that fits none stays a string."""
    bare = text.strip()
    lower = bare.lower()
    if lower in ("null", "none") and "null" in types:
        return "null"
    if lower in ("true", "false") and (not types or "boolean" in types):
        return lower
    if types == {"boolean"} and lower in ("1", "0", "yes", "no"):
        return "true" if lower in ("1", "yes") else "false"
    read = _loaded(bare)
    if read is None and bare[:1] in ("{", "[", "(") and (not types or types & {"object", "array"}):
        read = _loaded(_mended(bare))
    if read is not None:
        value, written = read
        if _fits(value, types):
            return written
        if isinstance(value, float) and value.is_integer() and "integer" in types:
            return str(int(value))
    return f'"{quoted(text)}"'


def _fits(value: object, types: frozenset[str]) -> bool:
    if isinstance(value, str):
        return bool(types) and "string" not in types  # where text is allowed, quotes around it are part of it
    kind = "null" if value is None else KINDS[type(value)]
    return not types or kind in types or (kind == "integer" and "number" in types)


def _loaded(text: str) -> tuple[object, str] | None:
    """The value of a JSON text, and the text as every client can read it."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except OverflowError:
        return _loaded(_mended(text))
    except (ValueError, RecursionError):
        return None
    return value, _mended(text) if _SURROGATE.search(text) else text


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise OverflowError(f"{text} is beyond what a client can hold")
    return number


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _mended(text: str) -> str:
    """Brackets that are not JSON (Python's literals, say) as JSON."""
    parts: list[str] = []
    for _ in Value(Source(text, ended=True), parts.append, Notation((), str, keep=False)).read():
        pass
    return "".join(parts)
