"""What people say of days and times, and what is meant."""

from __future__ import annotations

import time
from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.agent.moment import day, moment

NOW = datetime(2026, 3, 4, 13, 20, 31)  # a Wednesday


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("18:00", "03-04 18:00"), ("9:30", "03-05 09:30"), ("at 6 pm", "03-04 18:00"), ("6:15 p.m.", "03-04 18:15"),
        ("at 6", "03-04 18:00"), ("at six o'clock", "03-04 18:00"), ("7am", "03-05 07:00"), ("12 am", "03-05 00:00"),
        ("noon", "03-05 12:00"), ("12:30 pm", "03-05 12:30"), ("tonight", "03-04 20:00"), ("tonight at 9", "03-04 21:00"),
        ("tomorrow", "03-05 09:00"), ("tomorrow 9:00", "03-05 09:00"), ("tomorrow at 3 pm", "03-05 15:00"),
        ("tomorrow morning", "03-05 09:00"), ("tomorrow evening", "03-05 18:00"), ("tomorrow at 6", "03-05 06:00"),
        ("Friday at 10", "03-06 10:00"), ("next Wednesday", "03-11 09:00"), ("on Monday afternoon", "03-09 15:00"),
        ("2026-05-01", "05-01 09:00"), ("2026-05-01 08:05", "05-01 08:05"), ("2026-05-01T08:05:00", "05-01 08:05"),
        ("2026-05-01 at 7 pm", "05-01 19:00"), ("in 20 minutes", "03-04 13:40"), ("in half an hour", "03-04 13:50"),
        ("in two hours", "03-04 15:20"), ("in 3 days", "03-07 13:20"),
        ("下午三点", "03-04 15:00"), ("下午3点半", "03-04 15:30"), ("今晚八点", "03-04 20:00"), ("明天早上八点", "03-05 08:00"),
        ("明天", "03-05 09:00"), ("明早七点一刻", "03-05 07:15"),
        ("后天上午十点十五分", "03-06 10:15"), ("周五下午两点", "03-06 14:00"),
        ("星期天中午12点", "03-08 12:00"), ("晚上七点四十五分", "03-04 19:45"),
        ("二十分钟后", "03-04 13:40"), ("半小时后", "03-04 13:50"),
        ("两个小时后", "03-04 15:20"), ("5月1日下午两点", "05-01 14:00"), ("五月一号", "05-01 09:00"), ("18：30", "03-04 18:30"),
        ("晚上11点", "03-04 23:00"), ("中午一点", "03-05 13:00"), ("明天9点05分", "03-05 09:05"),
        ("March 5 at 6 pm", "03-05 18:00"), ("on the 5th of March, 2026 at 18.30", "03-05 18:30"), ("Sept. 9", "09-09 09:00"),
        ("2026/03/05 18:00", "03-05 18:00"), ("今年3月5日8点", "03-05 08:00"),
        ("half past six", "03-04 18:30"), ("a quarter to 6 pm", "03-04 17:45"),
        ("quarter past 9 tomorrow morning", "03-05 09:15"),
        ("in two days at 6 pm", "03-06 18:00"), ("三天后下午四点", "03-07 16:00"), ("in an hour and a half", "03-04 14:50"),
        ("一个半小时后", "03-04 14:50"), ("两个半小时后", "03-04 15:50"), ("大后天", "03-07 09:00"),
        ("下周一上午九点", "03-09 09:00"), ("下周五", "03-13 09:00"), ("这周五", "03-06 09:00"), ("下下个星期日", "03-22 09:00"),
        ("明天周四下午三点", "03-05 15:00"), ("晚上十二点", "03-05 00:00"), ("夜里两点", "03-05 02:00"),
        ("tonight at midnight", "03-05 00:00"), ("at 12 at night", "03-05 00:00"),
    ],
)  # fmt: skip
def test_times(said: str, meant: str) -> None:
    assert moment(said, NOW) == datetime.fromisoformat(f"2026-{meant}")


@pytest.mark.parametrize("said", ["", "soon", "after work", "25:00", "9:75", "2026-13-01", "2026-02-30", "等一会儿", "room 12"])
def test_what_is_no_time(said: str) -> None:
    assert moment(said, NOW) is None


@pytest.mark.parametrize(
    "said",
    [
        "2026-02-30 18:00", "2月30日下午三点", "31 April at 9", "05.03.2026 18:00", "03/05/2026 6 pm", "the 15th at 6 pm",
        "十五号下午两点", "next week at 6 pm", "this weekend at 9:00", "这周末早上八点", "every month at 9 am",
        "ten to six pm", "from 3 to 5 pm", "18:00 UTC", "2026-03-05 6 pm EST", "6 pm Tokyo time", "东京时间下午三点",
        "18:00+09:00", "in 2 weeks on Friday", "in two hours at 6 pm",
        "下午三点到五点",
    ],
)  # fmt: skip
def test_what_says_more_than_is_understood_is_no_time(said: str) -> None:
    assert moment(said, NOW) is None


def test_a_time_with_its_distance_from_utc_is_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert moment("2026-03-05T10:00:00Z", NOW) == datetime(2026, 3, 5, 18)
        assert moment("2026-03-05T18:00+09:00", NOW) == datetime(2026, 3, 5, 17)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("today", "2026-03-04"), ("Tomorrow", "2026-03-05"), ("今天", "2026-03-04"), ("后天", "2026-03-06"),
        ("2026-03-09", "2026-03-09"),
        ("the day after tomorrow", "2026-03-06"), ("1月2日", "2027-01-02"),
        ("2026年12月24日", "2026-12-24"), ("Sunday", "2026-03-08"),
        ("March 5", "2026-03-05"), ("2 January", "2027-01-02"), ("明年3月5日", "2027-03-05"), ("大后天", "2026-03-07"),
        ("yesterday", None), ("2026-02-30", None), ("", None),
    ],
)  # fmt: skip
def test_days(said: str, meant: str | None) -> None:
    assert day(said, NOW.date()) == (meant and date.fromisoformat(meant))


@given(said=st.text(alphabet="0123456789:-at inpmhourdys点半分钟后明天下午周一二十月日年 ", max_size=16))
def test_nothing_that_is_said_raises(said: str) -> None:
    moment(said, NOW)
    day(said, NOW.date())
