"""Days and times of day in a text, whichever way they are written: 6 pm is 18:00, 4月5号 is 4月5日.

Pure: knows no calendar and no today. So a relative day (tomorrow, 下周三) is only itself, and never a date.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

FIRST_YEAR = 2026  # of whoever runs the test: a day without a year is none of an earlier one
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTH = "(" + "|".join(f"{month}|{month[:3]}\\b\\.?" for month in _MONTHS) + r"|sept\b\.?)"
_WEEKDAY = "(" + "|".join(_WEEKDAYS) + ")"
_NTH = r"(?:st|nd|rd|th)?"
_DIGITS = {letter: at for at, letter in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_PART = "凌晨|清晨|早上|早晨|上午|中午|下午|傍晚|晚上|夜里|早|晚"
_FILLING = re.compile(r"\b(?:at|on|the|of|by|t)\b|[\s,.，。的在于()（）]")
_AGAIN = re.compile(r"\b(?:every|daily|weekly|each)\b|每", re.IGNORECASE)
_RELATIVE = (
    (r"(?:the )?day after tomorrow|(?<!大)后天", "+2"),
    (r"tomorrow|明[天日]", "+1"),
    (r"today|今[天日]", "+0"),
    (r"大后天", "+3"),
    (r"next week(?!end)|下周(?![1-7日天末])|下星期(?![1-7日天])", "next week"),
    (r"this weekend|[这本]周末", "weekend"),
)


@dataclass(frozen=True)
class Moment:
    """days: 2026-03-04, --03-04 (of no year), +1 (tomorrow), friday, ...; clocks: 18:00; rest: what is neither."""

    days: frozenset[str]
    clocks: frozenset[str]
    rest: str

    @property
    def whole(self) -> bool:
        """Whether the text is one day, or one time, or both, and nothing else."""
        return not self.rest and max(len(self.days), len(self.clocks)) == 1


def same_time(expected: str, given: str) -> bool:
    """Whether both texts are the same day or time and nothing else."""
    one, other = read(expected), read(given)
    return one.whole and other.whole and one.clocks == other.clocks and _agree(one.days, other.days)


def at_time(expected: str, given: str) -> bool:
    """Whether a text names the expected time of day and, whatever else it says, no other day: "today" is no other."""
    one, other = read(expected), read(given)
    if _AGAIN.search(given) and not _AGAIN.search(expected):
        return False
    today = frozenset({"+0"})
    days = _agree(one.days, other.days) or (one.days | other.days) == today
    return bool(one.clocks) and one.clocks == other.clocks and days


def tells(text: str, fact: str) -> bool:
    """Whether a text says a fact that is a day or a time, among others."""
    one, other = read(fact), read(text)
    return one.whole and one.clocks <= other.clocks and (one.days <= other.days or _agree(one.days, other.days))


def is_time(text: str) -> bool:
    """Whether a text is a time of day, with a day or without."""
    moment = read(text)
    return moment.whole and bool(moment.clocks)


def _agree(expected: frozenset[str], given: frozenset[str]) -> bool:
    if expected == given:
        return True
    if len(expected) != 1 or len(given) != 1:
        return False
    [one], [other] = expected, given
    return one.startswith("--") and other[4:] == one[1:] and other[:4].isdigit() and int(other[:4]) >= FIRST_YEAR


@cache
def read(text: str) -> Moment:
    """What days and times a text has."""
    reading = _Reading(digits(unicodedata.normalize("NFKC", text).casefold()))
    reading.dates()
    reading.relative()
    reading.times()
    return Moment(frozenset(reading.days), frozenset(reading.clocks), _FILLING.sub("", reading.text))


class _Reading:
    """A text from which days and times are taken out as they are found."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.days: set[str] = set()
        self.clocks: set[str] = set()
        self._part = ""  # of the day, said with the day: tonight, 明早

    def dates(self) -> None:
        self._take(r"(?<!\d)(\d{4})(?:[-/.]|年)(\d{1,2})(?:[-/.]|月)(\d{1,2})(?!\d)[日号]?", lambda m: _day(m[1], m[2], m[3]))
        self._take(r"(?<!\d)(\d{1,2})/(\d{1,2})/(\d{4})(?!\d)", lambda m: _slashes(m[1], m[2], m[3]))
        self._take(rf"\b{_MONTH} (\d{{1,2}}){_NTH}(?:,? (\d{{4}}))?(?!\d)", lambda m: _day(m[3], _month(m[1]), m[2]))
        self._take(rf"(?<!\d)(\d{{1,2}}){_NTH}(?: of)? {_MONTH}(?:,? (\d{{4}}))?(?!\d)", lambda m: _day(m[3], _month(m[2]), m[1]))
        self._take(r"([明今后]年)?(?<!\d)(\d{1,2})月(\d{1,2})[日号]?", lambda m: (m[1] or "") + _day(None, m[2], m[3]))

    def relative(self) -> None:
        for pattern, day in _RELATIVE:
            if re.search(pattern, self.text):
                self.days.add(day)
                self.text = re.sub(pattern, " ", self.text)
        self._take(rf"\b(next )?(?:this )?{_WEEKDAY}\b", lambda m: (m[1] or "") + m[2])
        self._take(
            r"(下|这|本)?个?(?:周|星期|礼拜)([1-7日天])",
            lambda m: ("next " if m[1] == "下" else "") + _WEEKDAYS[int(m[2]) - 1 if m[2].isdigit() else 6],
        )

    def times(self) -> None:
        for pattern, part, day in (
            (r"tonight|今晚", "晚上", "+0"),
            (r"明晚", "晚上", "+1"),
            (r"今早", "早上", "+0"),
            (r"明早", "早上", "+1"),
        ):
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text.replace(found[0], " ", 1)
                self._part = part
                self.days.add(day)
        self._clock(r"(?<![\d:])(\d{1,2})(?:[:.](\d{2}))?\s*([ap])\.?m\b\.?", lambda m: _clock(m[1], m[2], m[3]))
        self._clock(r"\b(noon|midnight)\b", lambda m: "12:00" if m[1] == "noon" else "00:00")
        minute = r"(整|半|[13]刻|\d{1,2}分?)?"
        self._clock(rf"({_PART})?(?<!\d)(\d{{1,2}})点(?:钟)?{minute}", lambda m: _told(m[1] or self._part, m[2], m[3]))
        self._clock(
            rf"({_PART})?\s*(?<![\d:])(\d{{1,2}}):(\d{{2}})(?::\d{{2}})?(?![\d:])",
            lambda m: _told(m[1] or self._part, m[2], m[3]) if m[1] else _clock(m[2], m[3], ""),
        )
        self._clock(r"正午|中午(?!\s*\d)", lambda m: "12:00")
        if self._part and not self.clocks:  # tonight without a time is not today
            self.days = {f"{day} {self._part}" if day in ("+0", "+1") else day for day in self.days}

    def _take(self, pattern: str, day: Callable[[re.Match[str]], str]) -> None:
        def found(match: re.Match[str]) -> str:
            self.days.add(day(match))
            return " "

        self.text = re.sub(pattern, found, self.text)

    def _clock(self, pattern: str, clock: Callable[[re.Match[str]], str]) -> None:
        def found(match: re.Match[str]) -> str:
            self.clocks.add(clock(match))
            return " "

        self.text = re.sub(pattern, found, self.text)


def _month(name: str) -> str:
    return str(next(at for at, month in enumerate(_MONTHS, 1) if month.startswith(name[:3])))


def _day(year: str | None, month: str, day: str) -> str:
    return f"{year or '-'}-{int(month):02d}-{int(day):02d}"


def _slashes(first: str, second: str, year: str) -> str:
    """28/03/2026 and 03/28/2026 are one day; 05/06/2026 may be two, so it is only itself."""
    one, other = int(first), int(second)
    if one > 12 >= other or one == other:
        return _day(year, second, first)
    return _day(year, first, second) if other > 12 else f"{one}/{other}/{year}"


def _clock(hour: str, minute: str | None, half: str) -> str:
    number = int(hour)
    if half:
        number = number % 12 + (12 if half == "p" else 0)
    return f"{number:02d}:{minute or '00'}"


def _told(part: str, hour: str, minute: str | None) -> str:
    """A time with its part of the day in Chinese; where that does not settle it, it is only itself."""
    number = int(hour)
    minutes = {"整": 0, "半": 30, "1刻": 15, "3刻": 45}.get(minute or "整")
    if minutes is None:
        minutes = int((minute or "0").rstrip("分"))
    if (part in ("下午", "傍晚") and 1 <= number < 12) or (part in ("晚上", "夜里", "晚") and 5 <= number < 12):
        number += 12
    elif part in ("晚上", "夜里", "晚", "凌晨") and number == 12:
        number = 0
    elif part == "中午" and number in (1, 2):
        number += 12
    elif (not part and number <= 12) or (part in ("晚上", "夜里", "晚") and number < 5) or (part == "中午" and number < 11):
        return f"{part}?{number}:{minutes:02d}"
    return f"{number:02d}:{minutes:02d}"


def digits(text: str) -> str:
    """Chinese numbers up to 99 in digits."""

    def tens(found: re.Match[str]) -> str:
        return str((_DIGITS[found[1]] if found[1] else 1) * 10 + (_DIGITS[found[2]] if found[2] else 0))

    text = re.sub("([一二三四五六七八九])?十([一二三四五六七八九])?", tens, text)
    return re.sub("[零〇一二两三四五六七八九]", lambda found: str(_DIGITS[found[0]]), text)
