"""How values are written: in JSON, in Gemma's or in Python's notation. What may stand in texts and words, and what they mean."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import cached_property

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
_LOOSE_NUMBER = re.compile(r"([+-]?)0*([0-9][0-9_]*)?(?:\.([0-9]*))?([eE][+-]?[0-9]+)?\Z")
# Beyond these a number is read as infinite, which JSON has not.
_LARGEST, _MOST_DIGITS = "1.7976931348623157e308", 308
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null", "undefined": "null", "nan": "null"}
_WORDS |= {"infinity": "null", "-infinity": "null", "+infinity": "null"}
# json.dumps would make such an encoder each time, for every piece of a text.
_encode = json.JSONEncoder(ensure_ascii=False).encode


def quoted(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return _encode(text)[1:-1]


class Notation:
    """How values are written.

    `quote`: a delimiter of strings without escapes ("" for none). `ends`: marks that end the value wherever they stand outside
    of strings, and inside of one that was left open. `keep`: white space is passed on as the model wrote it; otherwise the JSON
    is spaced as Python's json.dumps does. `shown`: what a mark inside a string looks like as text.
    """

    def __init__(self, ends: tuple[str, ...], shown: Callable[[str], str], *, quote: str = "", keep: bool = True) -> None:
        self.ends = ends
        self.shown = shown
        self.quote = quote
        self.keep = keep
        self.words = (*ends, quote) if quote else ends
        self.firsts = {word[0] for word in self.words}

    @cached_property
    def plain(self) -> dict[str, re.Pattern[str]]:
        """Quote character -> what may stand in such a string as it is."""
        firsts = re.escape("".join(sorted(self.firsts)))
        return {char: re.compile(rf"[^{char}\\\x00-\x1f\ud800-\udfff{firsts}]+") for char in "\"'"}

    @cached_property
    def undelimited(self) -> re.Pattern[str]:
        """What may stand in a string between `quote` marks."""
        return re.compile(rf"[^{re.escape(''.join(sorted(self.firsts)))}]+")

    @cached_property
    def bare(self) -> re.Pattern[str]:
        """What may stand in a word without quotes."""
        return re.compile(rf"[^,{{}}\[\]()\n\"\ud800-\udfff{re.escape(''.join(sorted(self.firsts)))}]+")

    @cached_property
    def bare_key(self) -> re.Pattern[str]:
        """What may stand in a key without quotes."""
        return re.compile(rf"[^,{{}}\[\]()\n\"':=\ud800-\udfff{re.escape(''.join(sorted(self.firsts)))}]+")


def literal(text: str) -> str:
    """A word without quotes as JSON: a number, true, false or null in JSON's or Python's spelling, else a string."""
    if _NUMBER.match(text):
        return _finite(text)
    if (word := _WORDS.get(text.lower())) is not None:
        return word
    if (found := _LOOSE_NUMBER.match(text)) and (found[2] or found[3]):
        sign, whole, part, power = found.groups()
        digits = (whole or "0").replace("_", "")
        return _finite(("-" if sign == "-" else "") + digits + (f".{part or 0}" if part is not None else "") + (power or ""))
    return f'"{quoted(text)}"' if text else "null"


def _finite(number: str) -> str:
    """The number, or the largest that there is."""
    if len(number) <= _MOST_DIGITS and not ("e" in number or "E" in number):
        return number
    return number if math.isfinite(float(number)) else ("-" if number[0] == "-" else "") + _LARGEST
