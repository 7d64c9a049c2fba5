"""Reminders as calendar programs read them."""

from __future__ import annotations

from datetime import UTC, datetime

from tokenwell.agent.reminder import icalendar

WHEN, MADE = datetime(2026, 3, 4, 18), datetime(2026, 3, 4, 12, 30, tzinfo=UTC)


def test_the_lines_are_those_of_the_standard() -> None:
    content = icalendar("take the umbrella", WHEN, MADE)
    lines = content.split("\r\n")
    assert (lines[0], lines[-2], lines[-1]) == ("BEGIN:VCALENDAR", "END:VCALENDAR", "")
    for line in ("DTSTAMP:20260304T123000Z", "DTSTART:20260304T180000", "SUMMARY:take the umbrella", "BEGIN:VALARM"):
        assert line in lines


def test_text_is_escaped_and_long_lines_are_folded_between_characters() -> None:
    text = "带伞，" * 40 + "a,b;\x00\x1bc\\d\ne"
    content = icalendar(text, WHEN, MADE)
    assert all(len(line.encode()) <= 75 for line in content.split("\r\n"))
    [summary] = [line for line in content.replace("\r\n ", "").split("\r\n") if line.startswith("SUMMARY:")]
    assert summary == "SUMMARY:" + "带伞，" * 40 + "a\\,b\\;c\\\\d\\ne"
