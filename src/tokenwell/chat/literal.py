"""Text of clients that spells special tokens, kept from becoming them: nobody closes a turn by writing its mark.

A private character breaks such spellings before the template is rendered, and the rendered text is cut there again: each
piece is encoded by itself, and no piece holds a whole mark. Costs one search of the texts when there is nothing to break.
Knows no template and no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from tokenwell.chat.template import Turn
from tokenwell.chat.turns import REASONING_NAMES

_NONCHARACTERS = [chr(number) for number in range(0xFDD0, 0xFDF0)]  # never assigned, for private use inside a program
_OWN_WORDS = frozenset({"content", *REASONING_NAMES})


class Breaker:
    """Breaks the spellings of one vocabulary's special tokens."""

    def __init__(self, special: Collection[str], thinking: Collection[str] = ()) -> None:
        """`thinking`: marks that templates look for in the assistant's own text to take old reasoning out; they stay there."""
        self._all = _pattern(special)
        self._own = _pattern(set(special) - set(thinking))

    def broken(self, turns: list[Turn], tools: list[Any]) -> tuple[list[Turn], list[Any], str]:
        """Turns and tools with broken spellings, and the character that breaks them; "" when there was nothing to break."""
        if self._all is None or not (_any(turns, self._all) or _any(tools, self._all)):
            return turns, tools, ""
        whole = str(turns) + str(tools)  # repr escapes these characters, so both forms are looked for
        free = (sign for sign in _NONCHARACTERS if sign not in whole and f"\\u{ord(sign):04x}" not in whole)
        sign = next(free, "")
        if not sign:  # all 32 in one request: an attack; without them it is the same text
            return self.broken(_without_noncharacters(turns), _without_noncharacters(tools))
        return [self._turn(turn, sign) for turn in turns], _mapped(tools, self._all, sign), sign

    def _turn(self, turn: Turn, sign: str) -> Turn:
        if turn["role"] != "assistant":
            return {key: value if key == "role" else _mapped(value, self._all, sign) for key, value in turn.items()}
        return {
            key: value if key == "role" else _mapped(value, self._own if key in _OWN_WORDS else self._all, sign)
            for key, value in turn.items()
        }


def _pattern(marks: Collection[str]) -> re.Pattern[str] | None:
    # A mark of one character cannot be broken.
    texts = sorted((mark for mark in marks if len(mark) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def _any(value: Any, pattern: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return pattern.search(value) is not None
    if isinstance(value, dict):
        return any(_any(key, pattern) or _any(item, pattern) for key, item in value.items())
    return any(_any(item, pattern) for item in value) if isinstance(value, list | tuple) else False


def _mapped(value: Any, pattern: re.Pattern[str] | None, sign: str) -> Any:
    if pattern is None:
        return value
    if isinstance(value, str):
        return _break(value, pattern, sign)
    if isinstance(value, dict):
        return {_mapped(key, pattern, sign): _mapped(item, pattern, sign) for key, item in value.items()}
    return [_mapped(item, pattern, sign) for item in value] if isinstance(value, list | tuple) else value


def _break(text: str, pattern: re.Pattern[str], sign: str) -> str:
    place = 0
    while match := pattern.search(text, place):  # again from inside: the rest of one mark may be the start of another
        place = match.start() + 1
        text = text[:place] + sign + text[place:]
    return text


def _without_noncharacters(value: Any) -> Any:
    table = dict.fromkeys(map(ord, _NONCHARACTERS))
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, dict):
        return {_without_noncharacters(key): _without_noncharacters(item) for key, item in value.items()}
    return [_without_noncharacters(item) for item in value] if isinstance(value, list | tuple) else value
