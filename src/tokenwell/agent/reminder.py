"""A reminder as an iCalendar file that any calendar program opens. Source of the form: RFC 5545."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime

from tokenwell import __version__

_LINE_BYTES = 75  # RFC 5545, 3.1
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


def icalendar(text: str, when: datetime, made: datetime) -> str:
    """An event of a quarter of an hour with an alarm at its start. `when` is local time and floats; `made` has a zone."""
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        f"PRODID:-//Tokenwell//Tokenwell {__version__}//EN",
        "BEGIN:VEVENT",
        f"UID:{uuid.uuid4()}",
        f"DTSTAMP:{made.astimezone(UTC):%Y%m%dT%H%M%SZ}",
        f"DTSTART:{when:%Y%m%dT%H%M%S}",
        "DURATION:PT15M",
        f"SUMMARY:{_escaped(text)}",
        "BEGIN:VALARM",
        "ACTION:DISPLAY",
        f"DESCRIPTION:{_escaped(text)}",
        "TRIGGER:PT0S",
        "END:VALARM",
        "END:VEVENT",
        "END:VCALENDAR",
    ]
    return "".join(f"{folded}\r\n" for line in lines for folded in [_folded(line)])


def _escaped(text: str) -> str:
    """The text without control characters, which the form does not allow."""
    for plain, written in (("\\", "\\\\"), (";", "\\;"), (",", "\\,"), ("\r\n", "\\n"), ("\n", "\\n"), ("\r", "\\n")):
        text = text.replace(plain, written)
    return _CONTROL.sub("", text)


def _folded(line: str) -> str:
    """The line in pieces of at most 75 bytes; each further one begins with a blank. No character is cut."""
    pieces, piece = [], ""
    for character in line:
        if len((piece + character).encode()) > _LINE_BYTES:
            pieces.append(piece)
            piece = " "
        piece += character
    return "\r\n".join([*pieces, piece])
