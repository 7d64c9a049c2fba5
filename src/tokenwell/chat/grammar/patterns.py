"""Regular expressions of JSON schemas (JavaScript's) as terminals of a grammar, which match a whole text in Rust's dialect."""

from __future__ import annotations

import re

from tokenwell.chat.grammar.lark import ANY_TEXT, Rules, complaint, regex

# The formats that are mostly used, as loosely as their standards allow and no looser than the checkers that read them.
FORMATS = {
    "date": "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])",
    "time": "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    "date-time": "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?"
    "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    "uuid": "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "ipv4": "((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    "email": "[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\\.[A-Za-z0-9]+)+",
}
_CLASSES = {"d": "0-9", "w": "A-Za-z0-9_"}
_NEGATED = {"D": "[^0-9]", "W": "[^A-Za-z0-9_]"}


def usable(terminal: str) -> bool:
    """Whether the grammar backend takes this terminal, and some text matches it."""
    rules = Rules()
    return complaint(rules.text(rules.rule("TEXT", terminal))) is None


def searched(pattern: str) -> str | None:
    """A regex for whole texts in which `pattern` is found somewhere; None when it cannot be said."""
    branches = []
    for branch in _branches(pattern):
        starts, ends = branch.startswith("^"), _ends(branch)
        inner = translated(branch[starts : len(branch) - ends])
        if inner is None:
            return None
        branches.append(("" if starts else ANY_TEXT) + f"(?:{inner})" + ("" if ends else ANY_TEXT))
    whole = "|".join(branches)
    return whole if usable(regex(whole)) else None


def matched(pattern: str) -> str | None:
    """A regex for whole texts that `pattern` matches from beginning to end; None when it cannot be said."""
    inner = translated(pattern.removeprefix("^")[: -1 if _ends(pattern) else None])
    return inner if inner is not None and usable(regex(inner)) else None


def translated(pattern: str) -> str | None:
    """JavaScript's escapes as Rust's; None for anchors inside, which no terminal can hold."""
    parts: list[str] = []
    inside = False  # of a character class
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            if place + 1 == len(pattern):
                return None
            piece, length = _escape(pattern[place:], inside)
            parts.append(piece)
            place += length
            continue
        if not inside and letter in "^$":
            return None
        if inside and letter == "[":
            letter = "\\["
        elif letter == "[" and not inside:
            inside = True
            if pattern[place + 1 : place + 2] == "]" or pattern[place + 1 : place + 3] == "^]":
                return None  # JavaScript's empty class and its complement
        elif letter == "]":
            inside = False
        parts.append(letter)
        place += 1
    return "".join(parts)


def _escape(text: str, inside: bool) -> tuple[str, int]:
    """One escape at the beginning of `text` in Rust's dialect, and its length."""
    kind = text[1]
    if kind in _CLASSES:
        return (_CLASSES[kind] if inside else f"[{_CLASSES[kind]}]"), 2
    if kind in _NEGATED:
        return _NEGATED[kind], 2
    if code := re.match(r"\\u([0-9a-fA-F]{4})|\\u\{([0-9a-fA-F]{1,6})\}|\\x([0-9a-fA-F]{2})", text):
        return f"\\x{{{code[1] or code[2] or code[3]}}}", code.end()
    if kind == "/":
        return "/", 2
    return text[:2], 2


def _ends(branch: str) -> bool:
    """Whether the last character is an anchor and not an escaped dollar."""
    return branch.endswith("$") and (len(branch) - 1 - len(branch[:-1].rstrip("\\"))) % 2 == 0


def _branches(pattern: str) -> list[str]:
    """The alternatives at the top."""
    branches, depth, inside, start, place = [], 0, False, 0, 0
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            place += 1
        elif inside:
            inside = letter != "]"
        elif letter == "[":
            inside = True
        elif letter in "()":
            depth += 1 if letter == "(" else -1
        elif letter == "|" and depth == 0:
            branches.append(pattern[start:place])
            start = place + 1
        place += 1
    return [*branches, pattern[start:]]
