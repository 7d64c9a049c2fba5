"""Members of an object in one order, where some may be missing. Knows no notation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenwell.chat.grammar.lark import Rules, alternatives


@dataclass(frozen=True)
class Member:
    """One key with its value, as a grammar writes it."""

    body: str
    required: bool


def listed(shape: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """An object's properties by name, those that are only required included, and the names that must be there."""
    properties = dict(shape.get("properties", {}))
    required = [name for name in shape.get("required", ()) if properties.get(name) is not False]
    for name in required:
        properties.setdefault(name, shape.get("additionalProperties", True))
    return properties, required


def members(rules: Rules, known: Sequence[Member], other: str | None, separator: str) -> str:
    """Every choice of the `known` members in their order, then any number of `other` ones, `separator` (a literal) between."""
    if not separator:
        return " ".join(
            [*(each.body if each.required else f"({each.body})?" for each in known), *([f"({other})*"] if other else [])]
        )
    more = f"({separator} {other})*" if other else ""
    first = next((place for place, each in enumerate(known) if each.required), None)
    if first is not None:
        before = [f"({each.body} {separator})?" for each in known[:first]]
        return " ".join([*before, known[first].body, _rest(rules, known, more, separator, first + 1)]).strip()
    options = [f"{each.body} {_rest(rules, known, more, separator, place + 1)}" for place, each in enumerate(known)]
    if other:
        options.append(f"{other} {more}")
    return alternatives([*options, ""])


def _rest(rules: Rules, known: Sequence[Member], more: str, separator: str, start: int) -> str:
    """What may follow when something has been written and the members before `start` are decided."""
    rest = more
    for each in reversed(known[start:]):
        mark = "" if each.required else "?"
        rest = rules.rule("rest", f"({separator} {each.body}){mark} {rest}".rstrip())
    return rest
