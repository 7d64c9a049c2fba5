"""The process log on stderr: one line an event, as text or as JSON. Knows no setting names and no HTTP."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import IO

_request_log = logging.getLogger("tokenwell.request")


def set_up(level: str, as_json: bool, stream: IO[str] | None = None) -> None:
    """Send every logger's lines to `stream` (stderr). Call once, at start. Raises ValueError for an unknown level."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("asyncio", "uvicorn", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def log_request(fields: Mapping[str, object], *, quiet: bool) -> None:
    """One line for one finished request; `quiet` ones (probes) only show at level debug."""
    level = logging.DEBUG if quiet else logging.INFO
    if _request_log.isEnabledFor(level):
        _request_log.log(level, "request", extra={"fields": fields})


class TextLines(logging.Formatter):
    """`time level logger message key=value …`"""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line; a traceback follows on its own lines."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
        line = f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {record.name} {record.getMessage()}{fields}"
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLines(logging.Formatter):
    """One JSON object a line; a traceback is one string in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields


def _plain(value: object) -> str:
    text = str(value)
    # A client chooses some of these values; it must not be able to forge a line.
    return text if text.isprintable() and " " not in text and text else json.dumps(text)
