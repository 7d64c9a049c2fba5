"""What people say of days and times, in English and Chinese, as dates. Knows no clock: the present is an argument.

Hours for parts of a day that are said without one: morning 9, noon 12, afternoon 15, evening 18, night 20, midnight 0; a day
without a time means 9. A time without a day is the next one that comes. Where something is left that could mean another time,
nothing is understood: a reminder at a wrong time is worse than none.
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
    (re.compile(r"大后天"), 3),
    (re.compile(r"\bday after tomorrow\b|后天"), 2),
    (re.compile(r"\btomorrow\b|明天|明日|明早|明晚"), 1),
    (re.compile(r"\btoday\b|\btonight\b|\bthis (?:morning|afternoon|evening)\b|今天|今日|今晚|今早"), 0),
)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKDAY = re.compile(rf"\b({'|'.join(_WEEKDAYS)})(?:day|sday|nesday|rsday|urday)?\b")
_HAN_WEEKDAY = re.compile(r"(下{0,3}|[这本])个?(?:星期|礼拜|周)([一二三四五六日天])")
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_MONTH = rf"(?:{'|'.join(f'{month[:3]}(?:{month[3:]})?' for month in _MONTHS)}|sept)\b\.?"
_NTH = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(r"(?<!\d)(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?!\d)")
_MONTH_DATE = re.compile(rf"\b({_MONTH})\s+({_NTH})\b(?![:.]\d)(?:,?\s+(\d{{4}})\b)?")
_DATE_MONTH = re.compile(rf"\b({_NTH})\s+(?:of\s+)?({_MONTH})(?:,?\s+(\d{{4}})\b)?")
_HAN_DATE = re.compile(rf"(?:(\d{{4}}|[今明])年)?({_HAN_NUMBER})月({_HAN_NUMBER})[日号]?")

_PARTS = (
    (re.compile(r"\bmidnight\b|午夜|半夜"), 0, "am"),
    (re.compile(r"\bmorning\b|早上|上午|清晨|明早|今早|早晨|凌晨"), 9, "am"),
    (re.compile(r"\bnoon\b|\bmidday\b|中午"), 12, "noon"),
    (re.compile(r"\bafternoon\b|下午"), 15, "pm"),
    (re.compile(r"\bevening\b|傍晚"), 18, "pm"),
    (re.compile(r"\bnight\b|\btonight\b|晚上|今晚|明晚|夜里"), 20, "night"),
)
_CLOCK = re.compile(r"(?<![\d.-])(\d{1,2})[:：.](\d{2})(?::\d{2})?(?![\d.])\s*([ap]\.?m\b\.?)?")
_PAST = re.compile(rf"\b(half|(?:a\s+)?quarter)\s+(past|to)\s+({_NUMBER})\b(?:\s*o'?clock\b)?\s*([ap]\.?m\b\.?)?")
_HOUR = re.compile(
    rf"\b({_NUMBER})\s*([ap]\.?m\b\.?)|\b({_NUMBER})\s*o'?clock\b"
    rf"|\bat\s+({_NUMBER})\b(?!\s*(?:[-:/]|[ap]\.?m\b))"
)
_HAN_CLOCK = re.compile(rf"({_HAN_NUMBER})\s*[点點时時](?:钟|整)?\s*(半|一刻|三刻|{_HAN_NUMBER}(?=分|$|[^\d{''.join(_HAN)}]))?")

_UNITS = {"min": 1, "minute": 1, "hour": 60, "hr": 60, "day": 1440, "week": 10080}
_UNIT = "|".join(sorted(_UNITS, key=len, reverse=True))
_SPAN = re.compile(rf"\bin\s+(half\s+)?({_NUMBER})\s+({_UNIT})s?\b(\s+and\s+a\s+half\b)?")
_HAN_UNITS = {"分钟": 1, "分": 1, "小时": 60, "钟头": 60, "天": 1440, "周": 10080, "星期": 10080}
_HAN_UNIT = "|".join(sorted(_HAN_UNITS, key=len, reverse=True))
_HAN_SPAN = re.compile(rf"({_HAN_NUMBER}|半)\s*(个半)?个?({_HAN_UNIT})(?:之后|以后|后)")

# What must not be left over: numbers, further days and lengths of time, other places' clocks.
_ZONES = "z|utc|gmt|[ecmp][sd]?t|cest|[bijkw]st|hkt|sgt|ae[sd]t|time"
_OPEN = re.compile(
    rf"\d|\b(?:{'|'.join(word for word in _WORDS if len(word) > 2)}|half|quarter|past|yesterday)\b"
    rf"|\b(?:{_UNIT}|second|weekend|month|year)s?\b|\b(?:{_ZONES})\b|[周月年号昨前点點]|星期|礼拜|小时|分钟|时间"
)


def day(text: str, today: date) -> date | None:
    """The day that `text` says; None when it says none that is known."""
    try:
        return _day(text.casefold().strip(), today)[0]
    except ValueError:  # no day of any calendar
        return None


def moment(text: str, now: datetime) -> datetime | None:
    """The local time that `text` says, to the minute; None when it says no day or time, or more than is understood."""
    now = now.replace(second=0, microsecond=0)
    try:
        if (elsewhere := _with_zone(text)) is not None:
            return elsewhere
        return _moment(text.casefold().strip(), now)
    except (ValueError, OverflowError):  # no day of any calendar, no time of any clock
        return None


def _moment(said: str, now: datetime) -> datetime | None:
    """Raises ValueError for what cannot be, and OverflowError."""
    named: date | None
    minutes, rest = _minutes_from_now(said)
    if minutes is None:
        named, rest = _day(said, now.date())
    else:
        named = (now + timedelta(minutes=minutes)).date()
    at, rest = _clock(said, rest)
    if _OPEN.search(rest) or (at is None and named is None):
        return None
    if minutes is not None and (_day(rest, now.date())[0] or (at and minutes % 1440)):
        return None  # two times at once
    if minutes is not None and at is None:
        return now + timedelta(minutes=minutes)
    if at is None:
        return datetime.combine(named or now, time(9))
    hour, minute, certain = at
    then = datetime.combine(named or now, time()) + timedelta(hours=hour, minutes=minute)
    if then <= now and (named is None or named == now.date()) and not certain and hour < 12:
        then += timedelta(hours=12)  # "at 6", said at noon
    if then <= now and (named is None or (named == now.date() and hour == 0)):
        then += timedelta(days=1)
    return then


def _with_zone(text: str) -> datetime | None:
    """The local time of one in ISO 8601 with its distance from UTC; None for all others."""
    try:
        then = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return None if then.tzinfo is None else then.astimezone().replace(second=0, microsecond=0, tzinfo=None)


def _taken(pattern: re.Pattern[str], said: str) -> tuple[re.Match[str] | None, str]:
    """The first match, and the text without it."""
    found = pattern.search(said)
    return found, said if found is None else f"{said[: found.start()]} {said[found.end() :]}"


def _day(said: str, today: date) -> tuple[date | None, str]:
    """The day and what else is said. Raises ValueError for one that no calendar has."""
    for pattern, days in _DAYS:
        found, rest = _taken(pattern, said)
        if found:
            return today + timedelta(days=days), _HAN_WEEKDAY.sub("", rest)
    found, rest = _taken(_DATE, said)
    if found:
        return date(int(found[1]), int(found[3]), int(found[4])), _HAN_WEEKDAY.sub("", rest)
    found, rest = _taken(_HAN_DATE, said)
    if found:
        year = {"今": str(today.year), "明": str(today.year + 1)}.get(found[1] or "", found[1])
        return _next(year, _number(found[2]), _number(found[3]), today), _HAN_WEEKDAY.sub("", rest)
    for pattern, month, nth in ((_MONTH_DATE, 1, 2), (_DATE_MONTH, 2, 1)):
        found, rest = _taken(pattern, said)
        if found:
            number = next(place for place, name in enumerate(_MONTHS, 1) if name.startswith(found[month][:3]))
            return _next(found[3], number, int(found[nth].rstrip("stndrh")), today), rest
    found, rest = _taken(_WEEKDAY, said)
    if found:
        return today + timedelta(days=(_WEEKDAYS.index(found[1]) - today.weekday() - 1) % 7 + 1), rest
    found, rest = _taken(_HAN_WEEKDAY, said)
    if found:
        weekday = "一二三四五六日".index(found[2].replace("天", "日"))
        if not found[1]:
            return today + timedelta(days=(weekday - today.weekday() - 1) % 7 + 1), rest
        weeks = found[1].count("下")  # 这周, 下周, 下下周: a week begins on Monday
        return today + timedelta(days=7 * weeks + weekday - today.weekday()), rest
    return None, said


def _next(year: str | None, month: int, day: int, today: date) -> date:
    """A date whose year may be left out: the next one that comes."""
    named = date(int(year) if year else today.year, month, day)
    return named if year or named >= today else named.replace(year=named.year + 1)


def _minutes_from_now(said: str) -> tuple[int | None, str]:
    """How long from now, and what else is said."""
    found, rest = _taken(_SPAN, said)
    if found:
        unit = _UNITS[found[3]]
        minutes = _number(found[2]) * unit
        return (minutes // 2 if found[1] else minutes) + (unit // 2 if found[4] else 0), rest
    found, rest = _taken(_HAN_SPAN, said)
    if found:
        unit = _HAN_UNITS[found[3]]
        minutes = unit // 2 if found[1] == "半" else _number(found[1]) * unit
        return minutes + (unit // 2 if found[2] else 0), rest
    return None, said


def _clock(said: str, rest: str) -> tuple[tuple[int, int, bool] | None, str]:
    """Hour, minute and whether the half of the day is certain, from the `rest` of what was said; and what else is said.

    Of a night, hours after 23 are those of the morning after. Raises ValueError for what no clock shows.
    """
    part = next(((hour, half) for pattern, hour, half in _PARTS if pattern.search(said)), None)
    half = part[1] if part else None
    found, left = _taken(_CLOCK, rest)
    if found:
        return (_on_24_hours(int(found[1]), found[3] or half), time(0, int(found[2])).minute, True), left
    found, left = _taken(_HAN_CLOCK, rest)
    if found:
        return (_on_24_hours(_number(found[1]), half), time(0, _han_minutes(found[2])).minute, half is not None), left
    found, left = _taken(_PAST, rest)
    if found:
        hour, minutes = _on_24_hours(_number(found[3]), found[4] or half), 30 if found[1] == "half" else 15
        certain = bool(found[4] or half)
        return ((hour, minutes, certain) if found[2] == "past" else (hour - 1, 60 - minutes, certain)), left
    found, left = _taken(_HOUR, rest)
    if found:
        return (_on_24_hours(_number(found[1] or found[3] or found[4]), found[2] or half), 0, bool(found[2] or half)), left
    return None if part is None else (part[0], 0, True), rest


def _on_24_hours(hour: int, half: str | None) -> int:
    """`half` is am, pm (however they are written), noon or night. Raises ValueError for what no clock shows."""
    if half is None or hour > 12:
        return time(hour).hour
    if half.startswith("a"):
        return hour % 12
    if half == "noon":
        return hour + 12 if hour < 4 else hour
    if half == "night":
        return hour + (24 if hour < 5 else 12)
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
