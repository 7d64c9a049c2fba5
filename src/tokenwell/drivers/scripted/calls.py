"""A tool call as a chat format's template prints it, with marks as characters. Knows no tokens and no prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.gemma4 import STRING


def write_call(bound: Bound, name: str, arguments: Mapping[str, Any]) -> str:
    """One call, from `before` to `after`, as the format writes it. Raises ValueError for a format without calls."""
    call = bound.call
    if call is None:
        raise ValueError(f"the chat format {bound.name} has no calls")
    if call.arguments == "json":
        body = json.dumps(arguments, ensure_ascii=False)
    elif call.arguments == "gemma":
        body = _gemma(arguments, bound.spelled(STRING))
    else:
        body = "".join(f"<parameter={key}>\n{_raw(value)}\n</parameter>\n" for key, value in arguments.items())
    return bound.spelled(call.before) + name + bound.spelled(call.between) + body + bound.spelled(call.after)


def _gemma(value: object, quote: str) -> str:
    """Gemma's notation: keys sorted and bare, texts between delimiters, the rest as in JSON."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_gemma(value[key], quote)}" for key in sorted(value, key=str.lower)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_gemma(item, quote) for item in value) + "]"
    return f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value)


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


def _raw(value: object) -> str:
    """A parameter between tags: texts as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
