"""Dates, times and durations as people say them."""

import re
from random import Random

from training.pseudo import pick

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
# Days that take no "on" before them.
BARE_DAYS = ("today", "tomorrow", "tonight", "the day after tomorrow", "next week", "this weekend")
_NO_DAYS = ("tonight", "next week", "this weekend", "今晚", "明晚", "下周", "这周末")  # an evening, or several days
_NUMBERS = {
    "en": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    "zh": ("一", "两", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二"),
}


_PARTS = re.compile(r"\d{1,4}(?:[-/:]\d{1,2}){1,2}(?:/\d{4})?(?!\d)|\d+|[A-Za-z]+|\S")
_OTHER = "at on in every next this am pm noon midnight morning afternoon evening days weeks hours minutes seconds months"
_SAID = frozenset(
    word.lower() for text in (*_WEEKDAYS, *_MONTHS, *BARE_DAYS, *_NUMBERS["en"], "day month", _OTHER) for word in text.split()
)
_SAID_HAN = frozenset("今明后大昨的年月日号周末星期天晚早上中下午点半一刻整分钟小时个之每本这两二三四五六七八九十零〇")


def tells_time(text: str) -> bool:
    """Whether a text is a day, a time or a length of time and nothing else; a number alone is none."""
    parts = [part.lower() for part in _PARTS.findall(text) if part not in "，, "]
    known = [part in _SAID or part in _SAID_HAN or part[0].isdigit() for part in parts]
    return bool(parts) and all(known) and any(not part.isdigit() for part in parts)


def number_word(language: str, number: int) -> str:
    """1 to 12 in words; two is said as before a measure word."""
    return _NUMBERS[language][number - 1]


def _iso(random: Random) -> str:
    return f"20{pick(random, (24, 25, 26, 26, 27))}-{1 + int(random.random() * 12):02d}-{1 + int(random.random() * 28):02d}"


def today(random: Random, language: str) -> str:
    """A date that says itself which day it is."""
    if language == "zh" or random.random() < 0.7:
        return _iso(random)
    return f"{_iso(random)} ({pick(random, _WEEKDAYS)})"


def date(random: Random, language: str) -> str:
    """A day as a request says it: 2026-03-04, tomorrow, 下周三."""
    shape = random.random()
    day, month = 1 + int(random.random() * 28), int(random.random() * 12)
    if shape < 0.3:
        text = _iso(random)
    elif language == "zh":
        if shape < 0.5:
            text = pick(random, ("今天", "明天", "后天", "大后天", "今晚", "明晚", "下周", "这周末"))
        elif shape < 0.7:
            text = pick(random, ("周", "下周", "这周", "星期", "下星期", "本周")) + pick(random, "一二三四五六日")
        else:
            text = f"{month + 1}月{day}{pick(random, '日号')}"
            text = pick(random, ("", "", "", "2026年", "明年")) + text
    elif shape < 0.5:
        text = pick(random, BARE_DAYS)
    elif shape < 0.7:
        text = pick(random, ("", "", "next ", "this ")) + pick(random, _WEEKDAYS)
    elif shape < 0.85:
        text = f"{_MONTHS[month]} {day}"
    elif shape < 0.95:
        text = f"{day} {_MONTHS[month]}" + pick(random, ("", "", f" {pick(random, (2025, 2026, 2027))}"))
    else:
        text = f"{day:02d}/{month + 1:02d}/2026"
    return text


def booked_day(random: Random, language: str) -> str:
    """A day that something can be booked for: one day, and not a past one."""
    while True:
        text = date(random, language)
        if text[4:5] in ("-", "年"):  # a year begins it, not a day
            text = f"{pick(random, (2027, 2028))}{text[4:]}"
        text = text.replace("/2026", "/2027")
        if text not in _NO_DAYS and not text.endswith((" 2025", " 2026")):
            return text


def past_day(random: Random, language: str) -> str:
    """A day whose night is over."""
    day, month = 1 + int(random.random() * 28), int(random.random() * 12)
    if random.random() < 0.3:
        return f"{pick(random, (2025, 2026))}-{month + 1:02d}-{day:02d}"
    if language == "zh":
        last = ("昨晚", "前天", "前天晚上", "上周" + pick(random, "一二三四五六日"))
        return pick(random, last) if random.random() < 0.5 else f"{month + 1}月{day}{pick(random, '日号')}"
    return pick(random, ("last night", f"last {pick(random, _WEEKDAYS)}")) if random.random() < 0.5 else f"{_MONTHS[month]} {day}"


def clear_time(random: Random, language: str) -> str:
    """A time of the day that only one hour can be meant by: no 十二点, no 晚上两点."""
    if language != "zh":
        return time(random, language)
    if random.random() < 0.35:
        return f"{int(random.random() * 24):02d}:{pick(random, (0, 5, 10, 15, 20, 30, 40, 45, 50)):02d}"
    part, first, last = pick(random, (("上午", 8, 11), ("下午", 1, 6), ("晚上", 7, 11)))
    hour = first + int(random.random() * (last - first + 1))
    said, minutes = (number_word("zh", hour), ("", "半", "一刻", "十分")) if random.random() < 0.6 else (str(hour), ("", "半"))
    return f"{part}{said}点{pick(random, minutes)}"


def time(random: Random, language: str) -> str:
    """A time of the day: 6 pm, 18:30, 下午三点."""
    hour, minute = 1 + int(random.random() * 12), pick(random, (0, 5, 10, 15, 20, 30, 40, 45, 50))
    shape = random.random()
    if shape < 0.35:
        text = f"{int(random.random() * 24):02d}:{minute:02d}"
    elif language == "zh":
        said = number_word("zh", hour) if random.random() < 0.6 else str(hour)
        text = (
            pick(random, ("上午", "下午", "早上", "晚上", "中午", ""))
            + said
            + "点"
            + pick(random, ("", "", "半", "一刻", "十分", "整"))
        )
    elif shape < 0.75:
        text = f"{hour}{pick(random, (' ', ''))}{pick(random, ('am', 'pm'))}"
    elif shape < 0.93:
        text = f"{hour}:{minute:02d} {pick(random, ('am', 'pm', 'AM', 'PM'))}"
    else:
        text = pick(random, ("noon", "midnight"))
    return text


def moment(random: Random, language: str) -> tuple[str, str]:
    """When something happens, as it stands in a sentence and as it is given: ("at 6 pm", "6 pm").

    Mostly a day and a time of it; also in 20 minutes, tomorrow evening, every Monday at 9 am, on Friday.
    """
    shape = random.random()
    hour = time(random, language)
    if language == "zh":
        text = _chinese_moment(random, shape, hour)
        return text, text
    day = date(random, language)
    if shape < 0.15:
        return f"at {hour}", hour
    if shape < 0.22:
        return day if day in BARE_DAYS else f"on {day}", day
    if shape < 0.28:
        text = f"in {duration(random, language)}"
    elif shape < 0.36:
        text = pick(random, ("tomorrow ", "this ", f"{pick(random, _WEEKDAYS)} ")) + pick(
            random, ("morning", "afternoon", "evening")
        )
    elif shape < 0.42:
        text = f"every {pick(random, ('day', 'morning', 'week', *_WEEKDAYS))} at {hour}"
    elif shape < 0.62:
        text = f"{day} at {hour}"
        return (text, text) if day in BARE_DAYS else (f"on {text}", text)
    elif shape < 0.82:
        text = f"{day} at {hour}"
    else:
        text = f"{hour} {day}" if day in BARE_DAYS else f"{hour} on {day}"
    return text, text


def _chinese_moment(random: Random, shape: float, hour: str) -> str:
    if shape < 0.14:
        return hour
    if shape < 0.22:
        return duration(random, "zh") + pick(random, ("后", "后", "之后"))
    if shape < 0.32:
        return pick(random, ("每天", "每周" + pick(random, "一二三四五六日"), "每个月", "明早", "明晚", "今晚")) + hour
    day = date(random, "zh")
    if shape < 0.37:
        return day
    return day + (" " if day[-1].isascii() else pick(random, ("", "", "的"))) + hour


def duration(random: Random, language: str) -> str:
    """A length of time: 20 minutes, 两小时."""
    number = 2 + int(random.random() * 11)
    if random.random() < 0.4:
        number = pick(random, (15, 20, 25, 30, 40, 45, 60, 90))
    said = number_word(language, number) if number <= 12 and random.random() < 0.4 else str(number)
    if language == "zh":
        return said + pick(random, ("分钟", "个小时", "小时", "天", "周", "个月"))
    return f"{said} {pick(random, ('minutes', 'hours', 'days', 'weeks', 'seconds', 'months'))}"
