"""Invented words: nobody has seen them, so a model can only copy them."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

Any_ = TypeVar("Any_")

_ONSETS = ("", *"b br c cl d dr f fl g gr h j k kr l m n p pl qu r s sh sk sl st t th tr v w y z".split())  # noqa: SIM905
_VOWELS = ("a", "e", "i", "o", "u", "a", "e", "o", "ai", "ea", "ei", "ia", "io", "oa", "ou", "y")
_CODAS = ("", "", "", "", "l", "n", "r", "s", "m", "x", "nd", "rn", "ck", "t", "th", "lm", "sk", "v")
# The characters of everyday Chinese: level 1 of GB 2312, 3,755 of them.
HAN = "".join(
    bytes((row, cell)).decode("gb2312") for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF) if (row, cell) < (0xD7, 0xFA)
)


def pick(random: Random, values: Sequence[Any_]) -> Any_:
    """One of the values; three times as fast as Random.choice."""
    return values[int(random.random() * len(values))]


def word(random: Random) -> str:
    """A lower-case word of one to four syllables, such as velmora."""
    text = ""
    for _ in range(pick(random, (1, 2, 2, 2, 2, 3, 3))):
        text += pick(random, _ONSETS) + pick(random, _VOWELS) + pick(random, _CODAS)
    return text if len(text) > 2 else text + pick(random, ("ra", "lin", "mos"))


def name(random: Random) -> str:
    """An identifier that says nothing."""
    text = word(random)
    return text if len(text) > 7 and random.random() < 0.5 else f"{text}_{word(random)}"


def han(random: Random, length: int) -> str:
    return "".join(HAN[int(random.random() * 3755)] for _ in range(length))


def reword(random: Random, text: str) -> str:
    """A name of the same shape in which at least one word, or one Chinese character in two, is invented."""
    parts = text.split(" ")
    chosen = int(random.random() * len(parts))
    for place, part in enumerate(parts):
        if place == chosen or random.random() < 0.5:
            parts[place] = _like(random, part)
    return " ".join(parts)


def _like(random: Random, part: str) -> str:
    if any(letter >= "\u4e00" for letter in part):
        changed = [han(random, 1) if letter >= "\u4e00" and random.random() < 0.6 else letter for letter in part]
        return "".join(changed)
    if not part.isalpha():
        return part
    new = word(random)
    if part[0].isupper():
        return new.upper()[: max(2, len(part))] if part.isupper() and len(part) > 1 else new.capitalize()
    return new
