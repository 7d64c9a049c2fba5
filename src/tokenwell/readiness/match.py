"""When texts and values are the same for whoever reads them, and when a text has a word.

Pure. A careful user would not mind the differences that do not count here, and would mind all others.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from tokenwell.readiness import when
from tokenwell.readiness.folder import clean
from tokenwell.readiness.task import Words

_END = ".。!！?？;；,， \t\n"
_TITLE = re.compile("[《〈](.*)[》〉]")
_LETTER = "[a-z0-9_à-ÿ]"
_WHOLE = 3  # so many letters are a word of their own: no is not in now; longer ones may go on: rain, rainy
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
_FIRST_SAID = 2  # "one" is no number in "no one"
_COURTESY = re.compile("anything (?:else|more)[^.!?]*\\?|还(?:有|需要|要|想)[^。!?]*\\?")
# Questions inside a sentence: 用不用带伞 does not say 不用带.
_WHETHER = re.compile("(.)不(?:\\1)|有没有|需不需要|应不应该")


def same(expected: Any, given: Any, is_path: bool = False) -> bool:
    """Equality with strict types. Of texts, what _core drops does not count, nor how a day or a time is written."""
    if isinstance(expected, str):
        if not isinstance(given, str):
            return False
        if is_path:
            return clean(expected) == clean(given)
        return _core(expected) == _core(given) or when.same_time(expected, given)
    if isinstance(expected, bool) or isinstance(given, bool):
        return expected is given
    if isinstance(expected, int | float):
        return isinstance(given, int | float) and expected == given
    if isinstance(expected, list):
        return isinstance(given, list) and len(expected) == len(given) and all(map(same, expected, given))
    if isinstance(expected, dict):
        return (
            isinstance(given, dict)
            and expected.keys() == given.keys()
            and all(same(expected[key], given[key]) for key in expected)
        )
    return bool(expected == given)


def silent(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether an optional argument says no more than leaving it out: nothing at all, or what its declaration has for default."""
    if value is None or value == "" or (isinstance(value, list | dict) and not value):
        return True
    return "default" in schema and same(schema["default"], value)


def argument_has(value: Any, groups: Words) -> bool:
    """Whether an argument has one of every group's words; a word that is a time must be the only time, on no other day."""
    if not isinstance(value, str):
        return False
    return all(any(_has_word(value, word, when.at_time) for word in group) for group in groups)


def has_words(text: str, groups: Words) -> bool:
    """Whether one of every group's words occurs; days and times in whichever way they are written."""
    return all(any(_has_word(text, word, None) for word in group) for group in groups)


def found(text: str, word: str) -> bool:
    """Whether a word occurs, in any case, any width of signs.

    A word of letters begins where a word begins, and a short one ends there too. A number is all of a number, and may be told
    in letters or Chinese figures. What a sentence asks (用不用) it does not say, and "Anything else?" asks nothing.
    """
    plain, wanted = _plain(text), _plain(word)
    if wanted == "?":
        plain = _COURTESY.sub(" ", plain)
    if not _WHETHER.search(wanted):
        plain = _WHETHER.sub(" ", plain)
    if re.search(_bounded(wanted), plain):
        return True
    if not wanted.isdecimal():
        return False
    number = int(wanted)
    told = _FIRST_SAID <= number < len(_NUMBERS) and re.search(rf"\b{_NUMBERS[number]}\b", plain)
    return bool(told) or re.search(_bounded(wanted), when.digits(plain)) is not None


def _has_word(text: str, word: str, at: Callable[[str, str], bool] | None) -> bool:
    if at is not None and when.is_time(word):
        return at(word, text)
    return found(text, word) or when.tells(text, word)


def _bounded(word: str) -> str:
    pattern = re.escape(word)
    if not word:
        return pattern
    if word[0].isdigit():
        pattern = r"(?<!\d)(?<!\d[.,:])" + pattern
    elif re.match(_LETTER, word) and not word.startswith("n't"):
        pattern = f"(?<!{_LETTER})" + pattern
    if word[-1].isdigit():
        return pattern + r"(?!\d|[.,:]\d)"
    if re.match(_LETTER, word[-1]) and word.isascii() and sum(letter.isalpha() for letter in word) <= _WHOLE:
        return pattern + f"(?!{_LETTER})"
    return pattern


def _plain(text: str) -> str:
    """Text for finding words in: one case, one width of signs, one apostrophe, 1000 for 1,000 and for 1000.00, 49.5 for 49.50."""
    plain = _folded(text)
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    return re.sub(r"(?<=\d)(\.\d*?)0+(?!\d|\.\d)", lambda zeros: zeros[1].rstrip("."), plain)


def _core(text: str) -> str:
    """A text without case, width of signs, kind of apostrophe, final punctuation, title marks, "./", and the "#" of a number."""
    core = _folded(text).strip().rstrip(_END)
    title = _TITLE.fullmatch(core)
    return re.sub(r"^#(?=\d+$)", "", clean(title[1] if title else core))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text.replace("’", "'").replace("‘", "'")).casefold()
