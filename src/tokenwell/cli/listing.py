"""Settings as a person or a program wants to read them. Never shows an API key in full."""

from __future__ import annotations

import json

from tokenwell.config.allowed import SECRET, shown
from tokenwell.config.load import Loaded


def as_json(loaded: Loaded) -> str:
    """One object: key -> {"value", "origin"}."""
    return json.dumps({key: {"value": shown(key, value), "origin": origin} for key, value, origin in loaded}, indent=2)


def as_toml(loaded: Loaded) -> str:
    """A settings file with the origins as comments. What cannot be written into one (unset, secret) is a comment as well."""
    lines: list[str] = []
    section = ""
    for key, value, origin in loaded:
        if key.split(".")[0] != section:
            section = key.split(".")[0]
            lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        unwritable = value is None or (key in SECRET and value)
        line = f"{'# ' if unwritable else ''}{key.split('.')[1]} = {_toml(shown(key, value))}"
        lines.append(f"{line:<40}  # {origin}")
    return "\n".join(lines)


def _toml(value: object) -> str:
    # JSON's texts, numbers, lists and truth values are TOML's too, but for escapes of characters beyond U+FFFF.
    return "(not set)" if value is None else json.dumps(value, ensure_ascii=False)
