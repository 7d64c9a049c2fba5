"""What people say of days and times, in English and Chinese, as dates. Knows no clock: the present is an argument.

Hours for parts of a day that are said without one: morning 9, noon 12, afternoon 15, evening 18, night 20, midnight 0; a day
without a time means 9. A time without a day is the next one that comes.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta

_WORDS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
_HAN = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10}
_NUMBER = rf"(?:\d{{1,4}}|{'|'.join(sorted(_WORDS, key=len, reverse=True))})"
_HAN_NUMBER = rf"(?:\d{{1,4}}|[{''.join(_HAN)}]{{1,3}})"

_DAYS = (
    (re.compile(r"\bday after tomorrow\b|后天"), 2),
    (re.compile(r"\btomorrow\b|明天|明日|明早|明晚"), 1),
    (re.compile(r"\btoday\b|\btonight\b|\bthis (?:morning|afternoon|evening)\b|今天|今日|今晚|今早"), 0),
)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKDAY = re.compile(rf"\b({'|'.join(_WEEKDAYS)})(?:day|sday|nesday|rsday|urday)?\b")
_HAN_WEEKDAY = re.compile(r"(?:周|星期|礼拜)([一二三四五六日天])")
_DATE = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)")
_HAN_DATE = re.compile(rf"(?:(\d{{4}})年)?({_HAN_NUMBER})月({_HAN_NUMBER})[日号]?")

_PARTS = (
    (re.compile(r"\bmidnight\b|午夜|半夜"), 0, "am"),
    (re.compile(r"\bmorning\b|早上|上午|清晨|明早|今早|早晨|凌晨"), 9, "am"),
    (re.compile(r"\bnoon\b|\bmidday\b|中午"), 12, "noon"),
    (re.compile(r"\bafternoon\b|下午"), 15, "pm"),
    (re.compile(r"\bevening\b|傍晚"), 18, "pm"),
    (re.compile(r"\bnight\b|\btonight\b|晚上|今晚|明晚|夜里"), 20, "pm"),
)
_CLOCK = re.compile(r"(?<![\d-])(\d{1,2})[:：](\d{2})(?::\d{2})?(?!\d)\s*([ap]\.?m\b\.?)?")
_HOUR = re.compile(rf"\b({_NUMBER})\s*([ap]\.?m\b\.?)|\b({_NUMBER})\s*o'?clock\b|\bat\s+({_NUMBER})\b(?!\s*(?:[-:/]|[ap]\.?m\b))")
_HAN_CLOCK = re.compile(rf"({_HAN_NUMBER})\s*[点點时時](?:钟|整)?\s*(半|一刻|三刻|{_HAN_NUMBER}(?=分|$|[^\d{''.join(_HAN)}]))?")

_UNITS = {"min": 1, "minute": 1, "hour": 60, "hr": 60, "day": 1440, "week": 10080}
_SPAN = re.compile(rf"\bin\s+(?:(half)\s+)?({_NUMBER})\s+({'|'.join(sorted(_UNITS, key=len, reverse=True))})s?\b")
_HAN_UNITS = {"分钟": 1, "分": 1, "个小时": 60, "小时": 60, "个钟头": 60, "天": 1440, "周": 10080, "个星期": 10080}
_HAN_SPAN = re.compile(rf"({_HAN_NUMBER}|半)\s*({'|'.join(sorted(_HAN_UNITS, key=len, reverse=True))})(?:之后|以后|后)")


def day(text: str, today: date) -> date | None:
    """The day that `text` says; None when it says none that is known."""
    said = text.casefold().strip()
    for pattern, days in _DAYS:
        if pattern.search(said):
            return today + timedelta(days=days)
    try:
        if found := _DATE.search(said):
            return date(*map(int, found.groups()))
        if found := _HAN_DATE.search(said):
            year = int(found[1]) if found[1] else today.year
            named = date(year, _number(found[2]), _number(found[3]))
            return named if found[1] or named >= today else named.replace(year=year + 1)
    except ValueError:  # no day of any calendar
        return None
    weekday = None
    if found := _WEEKDAY.search(said):
        weekday = _WEEKDAYS.index(found[1])
    elif found := _HAN_WEEKDAY.search(said):
        weekday = "一二三四五六日".index(found[1].replace("天", "日"))
    return None if weekday is None else today + timedelta(days=(weekday - today.weekday() - 1) % 7 + 1)


def moment(text: str, now: datetime) -> datetime | None:
    """The time that `text` says, to the minute; None when it says neither a day nor a time that is known."""
    said = text.casefold().strip()
    now = now.replace(second=0, microsecond=0)
    if (minutes := _minutes_from_now(said)) is not None:
        return now + timedelta(minutes=minutes)
    named = day(said, now.date())
    clock = _clock(said)
    if clock is None:
        return None if named is None else datetime.combine(named, time(9))
    hour, minute, certain = clock
    if hour > 23 or minute > 59:
        return None
    then = datetime.combine(named or now.date(), time(hour, minute))
    if then <= now and (named is None or named == now.date()) and not certain and hour < 12:
        then += timedelta(hours=12)  # "at 6", said at noon
    if then <= now and named is None:
        then += timedelta(days=1)
    return then


def _minutes_from_now(said: str) -> int | None:
    if found := _SPAN.search(said):
        minutes = _number(found[2]) * _UNITS[found[3]]
        return minutes // 2 if found[1] else minutes
    if found := _HAN_SPAN.search(said):
        unit = _HAN_UNITS[found[2]]
        return unit // 2 if found[1] == "半" else _number(found[1]) * unit
    return None


def _clock(said: str) -> tuple[int, int, bool] | None:
    """Hour, minute, and whether the half of the day is certain; None when nothing of the kind is said."""
    part = next(((hour, half) for pattern, hour, half in _PARTS if pattern.search(said)), None)
    half = part[1] if part else None
    if found := _CLOCK.search(said):
        hour, minute = int(found[1]), int(found[2])
        return _on_24_hours(hour, found[3] or half), minute, True
    if found := _HAN_CLOCK.search(said):
        return _on_24_hours(_number(found[1]), half), _han_minutes(found[2]), half is not None
    if found := _HOUR.search(said):
        hour = _number(found[1] or found[3] or found[4])
        return _on_24_hours(hour, found[2] or half), 0, bool(found[2] or half)
    return None if part is None else (part[0], 0, True)


def _on_24_hours(hour: int, half: str | None) -> int:
    """`half` is am, pm (however it is written) or noon."""
    if half is None or hour > 12:
        return hour
    if half.startswith("a"):
        return hour % 12
    if half == "noon":
        return hour + 12 if hour < 4 else hour
    return hour % 12 + 12


def _han_minutes(said: str | None) -> int:
    return 0 if said is None else {"半": 30, "一刻": 15, "三刻": 45}.get(said) or _number(said)


def _number(said: str) -> int:
    """Digits, an English word up to twelve, or a Chinese number below a hundred."""
    if said.isdigit():
        return int(said)
    if said in _WORDS:
        return _WORDS[said]
    tens, ten, ones = said.rpartition("十")
    if not ten:
        return int("".join(str(_HAN[character]) for character in said))
    return (_number(tens) if tens else 1) * 10 + (_number(ones) if ones else 0)
