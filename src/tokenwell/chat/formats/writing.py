"""A tool call as a chat format's template prints it, with marks as characters: what the parser reads and the grammar holds to.

Knows no tokens and no prompts.
"""

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
    written = json.dumps(name, ensure_ascii=False)[1:-1] if call.envelope else name
    if call.arguments == "json":
        body = json.dumps(arguments, ensure_ascii=False)
    elif call.arguments == "gemma":
        body = _gemma(arguments, bound.spelled(STRING))
    else:
        body = "".join(f"<parameter={key}>\n{_raw(value)}\n</parameter>\n" for key, value in arguments.items())
    return bound.spelled(call.before) + written + bound.spelled(call.between) + body + bound.spelled(call.after)


def _gemma(value: object, quote: str) -> str:
    """Gemma's notation: keys sorted and bare, texts between delimiters, the rest as in JSON."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_gemma(value[key], quote)}" for key in sorted(value, key=str.lower)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_gemma(item, quote) for item in value) + "]"
    return f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value)


def _raw(value: object) -> str:
    """A parameter between tags: texts as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
