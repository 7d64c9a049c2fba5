"""Writing grammars in llguidance's dialect of Lark: quoting, token ranges, named rules. Knows no format and no schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# As json.dumps writes, so that a call that a template prints again has the same tokens.
SPELLED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# For an answer that nobody prints again: with or without the space.
RELAXED = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}

ANY_TEXT = "(?s:.*)"


def literal(text: str) -> str:
    """`text` as a Lark string; nothing for an empty one."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def regex(pattern: str) -> str:
    """A Rust regex as a Lark terminal."""
    escaped = pattern.replace("\\/", "/").replace("/", "\\/").replace("\n", "\\n")
    return f"/{escaped}/"


def escaped(text: str) -> str:
    """`text` as a regex that matches nothing else."""
    return "".join(f"\\x{{{ord(letter):x}}}" if not letter.isalnum() else letter for letter in text)


def tokens(ids: Iterable[int]) -> str:
    """Any one of these token ids; "" for none."""
    ranges: list[list[int]] = []
    for id in sorted(set(ids)):
        if ranges and ranges[-1][1] == id - 1:
            ranges[-1][1] = id
        else:
            ranges.append([id, id])
    shown = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"<[{shown}]>" if shown else ""


def sequence(text: str, ids: Mapping[str, int]) -> str:
    """`text` in which some characters stand for tokens (character -> id) as a Lark sequence."""
    parts: list[str] = []
    run = ""
    for letter in text:
        if letter in ids:
            parts += [literal(run), tokens([ids[letter]])]
            run = ""
        else:
            run += letter
    parts.append(literal(run))
    return " ".join(part for part in parts if part)


def inline_json(schema: Any, style: Mapping[str, Any]) -> str:
    """JSON that a schema describes, written in a style."""
    return "%json " + json.dumps({"x-guidance": style, **(schema if isinstance(schema, dict) else {"allOf": [schema]})})


def complaint(grammar: str) -> str | None:
    """What is wrong with a grammar; None when it can be used."""
    # Loaded when first needed: the library is large, and most requests constrain nothing.
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0] if failed else None


def alternatives(options: Iterable[str]) -> str:
    """One of these; an empty option stands for nothing."""
    distinct = list(dict.fromkeys(options))
    if len(distinct) == 1:
        return distinct[0] or '""'
    return "(" + " | ".join(option or '""' for option in distinct) + ")"


class Rules:
    """A grammar's named rules. Equal bodies share a name."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def name(self, kind: str) -> str:
        """A name whose body follows with `define`, for rules that refer to themselves."""
        name = f"{kind}_{len(self._bodies)}"
        self._bodies[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        """The body of a name."""
        self._bodies[name] = body

    def rule(self, kind: str, body: str, options: str = "") -> str:
        """The name of a rule with this body; lower-case kinds are rules, upper-case ones are terminals."""
        key = f"{options}:{kind.isupper()}:{body}"
        if key not in self._names:
            self._names[key] = name = self.name(kind)
            self._bodies[name] = body
            if options:
                self._bodies[f"{name}{options}"] = self._bodies.pop(name)
        return self._names[key]

    def text(self, start: str) -> str:
        """The grammar."""
        lines = [f"{name}: {body}" for name, body in self._bodies.items()]
        return "\n".join(["%llguidance {}", f"start: {start}", *lines, ""])
