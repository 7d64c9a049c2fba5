"""Log lines as text and as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tokenwell.telemetry.log import log_request, set_up


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text(stream: io.StringIO) -> None:
    set_up("info", False, stream)
    log_request({"id": "r1", "route": "GET /v1/models", "ms": 1.5}, quiet=False)
    assert stream.getvalue().endswith('info    tokenwell.request request id=r1 route="GET /v1/models" ms=1.5\n')


def test_a_client_cannot_forge_lines(stream: io.StringIO) -> None:
    set_up("info", False, stream)
    log_request({"id": "a\nb", "empty": ""}, quiet=False)
    assert stream.getvalue().count("\n") == 1 and 'id="a\\nb" empty=""' in stream.getvalue()


def test_probes_are_quiet(stream: io.StringIO) -> None:
    set_up("info", False, stream)
    log_request({"id": "r1"}, quiet=True)
    assert stream.getvalue() == ""
    set_up("debug", False, stream)
    log_request({"id": "r1"}, quiet=True)
    assert "id=r1" in stream.getvalue()


def test_json(stream: io.StringIO) -> None:
    set_up("info", True, stream)
    log_request({"id": "r1", "prompt": 3}, quiet=False)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("tokenwell.x").exception("it %s", "failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["id"] == "r1" and first["prompt"] == 3 and first["level"] == "info" and first["logger"] == "tokenwell.request"
    assert second["message"] == "it failed" and "ValueError: broken" in second["traceback"]


def test_unknown_level() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        set_up("loud", False, io.StringIO())
