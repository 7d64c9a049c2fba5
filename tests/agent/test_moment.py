"""What people say of days and times, and what is meant."""

from __future__ import annotations

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
    ],
)  # fmt: skip
def test_times(said: str, meant: str) -> None:
    assert moment(said, NOW) == datetime.fromisoformat(f"2026-{meant}")


@pytest.mark.parametrize("said", ["", "soon", "after work", "25:00", "9:75", "2026-13-01", "2026-02-30", "等一会儿", "room 12"])
def test_what_is_no_time(said: str) -> None:
    assert moment(said, NOW) is None


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("today", "2026-03-04"), ("Tomorrow", "2026-03-05"), ("今天", "2026-03-04"), ("后天", "2026-03-06"),
        ("2026-03-09", "2026-03-09"),
        ("the day after tomorrow", "2026-03-06"), ("1月2日", "2027-01-02"),
        ("2026年12月24日", "2026-12-24"), ("Sunday", "2026-03-08"),
        ("yesterday", None), ("2026-02-30", None), ("", None),
    ],
)  # fmt: skip
def test_days(said: str, meant: str | None) -> None:
    assert day(said, NOW.date()) == (meant and date.fromisoformat(meant))


@given(said=st.text(alphabet="0123456789:-at inpmhourdys点半分钟后明天下午周一二十月日年 ", max_size=16))
def test_nothing_that_is_said_raises(said: str) -> None:
    moment(said, NOW)
    day(said, NOW.date())
