"""What a schema says about a text that is written without escapes, as a terminal. Knows no delimiters but the one it is given."""

from __future__ import annotations

from typing import Any

from tokenwell.chat.grammar.lark import ANY_TEXT, Rules, escaped, literal, regex
from tokenwell.chat.grammar.patterns import FORMATS, searched, usable

FREE = regex(ANY_TEXT)
COUNTED = 256  # characters that can be counted while a closer is looked for; the matcher gives up beyond some thousands


def text(shape: dict[str, Any], where: str, left_out: list[str], most: int | None = None) -> str:
    """The terminal of a `string` shape; what it cannot say goes to `left_out`. Lengths are counted up to `most`."""
    parts: list[str] = []
    low, high = shape.get("minLength", 0), shape.get("maxLength")
    if most is not None and high is not None and high > most:
        left_out.append(f"{where}.maxLength")
        high = None
    if most is not None and low > most:
        left_out.append(f"{where}.minLength")
        low = most
    if low or high is not None:
        parts.append(regex(f"(?s:.{{{low},{'' if high is None else high}}})"))
        if high is not None and high < low:
            left_out.append(f"{where}.minLength")
            parts.clear()
    found = {
        "pattern": searched(shape["pattern"]) if "pattern" in shape else None,
        "format": FORMATS.get(shape.get("format", "")),
    }
    for key, pattern in found.items():
        if key not in shape:
            continue
        if pattern is not None and usable(" & ".join([*parts, regex(pattern)])):
            parts.append(regex(pattern))
        else:
            left_out.append(f"{where}.{key}")
    return " & ".join(parts) or FREE


def until(rules: Rules, terminal: str, closer: str, never: str = "") -> str:
    """The rule of a text that ends with the first `closer` in it, which is text too; the regex `never` matches nothing in it."""
    if terminal == FREE and not never:
        return rules.rule("text", f"{FREE} {literal(closer)}", "[lazy]")
    unlike = "|".join(part for part in (escaped(closer), never) if part)
    body = rules.rule("TEXT", f"({terminal}) & ~{regex(f'{ANY_TEXT}({unlike}){ANY_TEXT}')}")
    return rules.rule("text", f"{body} {literal(closer)}", "[lazy]")
