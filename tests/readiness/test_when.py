"""Days and times of day: what is the same, and what only looks so."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tokenwell.readiness.match import found, same
from tokenwell.readiness.when import at_time, is_time, same_time, tells


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("April 5", "5 April"),
        ("April 5", "Apr 5th"),
        ("April 5", "2026-04-05"),
        ("11 October 2027", "October 11, 2027"),
        ("28/03/2026", "2026-03-28"),
        ("this Saturday", "on Saturday"),
        ("12 pm", "12:00"),
        ("12 pm", "noon"),
        ("12am", "00:00"),
        ("6:10 pm", "18:10"),
        ("7:30 PM", "7:30pm"),
        ("tonight at 8 pm", "today at 20:00"),
        ("10月19日", "10月19号"),
        ("十月十九日", "2026-10-19"),
        ("2026年3月4日", "2026-03-04"),
        ("下星期三", "下周三"),
        ("本周日", "这周天"),
        ("下午六点", "18:00"),
        ("晚上7点半", "晚上七点半"),
        ("上午10点十分", "10:10"),
        ("今晚八点", "今天20:00"),
        ("早上7点一刻", "早上7:15"),
        ("16:50", "16：50"),
        ("中午一点", "13:00"),
    ],
)
def test_the_same_day_or_time_written_otherwise(expected: str, given: str) -> None:
    assert same_time(expected, given)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("April 5", "April 6"),
        ("April 5", "2024-04-05"),  # past for everybody
        ("2026-04-05", "April 5"),  # the year was said
        ("05/06/2026", "2026-06-05"),  # or the 6th of May
        ("tomorrow", "2026-11-22"),
        ("next Saturday", "Saturday"),
        ("tonight", "today"),
        ("明年2月26日", "2月26日"),
        ("大后天", "后天"),
        ("6 pm", "6 am"),
        ("18:30", "6:30"),
        ("12 pm", "today at 12 pm"),
        ("晚上两点一刻", "02:15"),  # or 14:15
        ("一点", "13:00"),
        ("every Monday at 9 am", "Monday at 9 am"),
        ("the kiln is warm", "the kiln is warm"),
    ],
)
def test_what_is_not_the_same(expected: str, given: str) -> None:
    assert not same_time(expected, given)


def test_a_time_may_be_said_with_today_and_with_other_words() -> None:
    assert (
        at_time("4 pm", "today at 4 pm")
        and at_time("4 pm", "16:00 Shanghai time")
        and at_time("tomorrow at 9 am", "9:00 tomorrow")
    )
    assert not at_time("4 pm", "tomorrow at 4 pm") and not at_time("4 pm", "5 pm") and not at_time("tomorrow at 9 am", "9 am")
    assert at_time("今晚八点", "晚上8点") and not at_time("今晚八点", "明天早上8点") and not at_time("今晚八点", "18:00")


def test_a_fact_that_is_a_day_or_a_time_is_found_in_a_sentence() -> None:
    assert tells("The next one leaves at 8:40 pm.", "20:40") and tells("It ends on the 6th of July.", "July 6")
    assert not tells("The next one leaves at 8:40.", "20:40") and not tells("I do not know.", "today")
    assert is_time("6 pm") and is_time("周五中午12点") and not is_time("tomorrow") and not is_time("take the 6 pm ferry")


PIECES = [
    *"0123456789٣𐩀①十两月号点半分:/-. ",
    "年",
    "周",
    "星期",
    "晚上",
    "中午",
    "今晚",
    "明早",
    " am",
    " pm",
    "april",
    "noon",
    "tonight",
]


@settings(max_examples=500, deadline=None)
@given(some.lists(some.sampled_from(PIECES), max_size=10).map("".join))
def test_whatever_a_model_writes_can_be_read(text: str) -> None:
    assert same(text, text)
    found(text, text)
