"""An engine's output in our log, and how its end is told."""

from __future__ import annotations

import logging
import sys

import pytest

from tokenwell.service.process import EngineProcess
from tokenwell.wire.errors import TokenwellError

pytestmark = pytest.mark.anyio

SAYS = """
import sys
print("INFO tokenwell.engine: device: cpu", flush=True)
print("WARNING tokenwell.engine.load: little memory: 1 GiB", flush=True)
print("INFO elsewhere: a library's line", flush=True)
print("ERROR tokenwell.engine: it broke", file=sys.stderr, flush=True)
sys.exit(7)
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_lines_keep_their_level_and_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        process = await EngineProcess.start([sys.executable, "-c", SAYS])
        ended = await process.wait()
        await process.end()
    assert ended == "the engine exited with status 7: it broke"
    told = [(record.levelname, record.name, record.getMessage()) for record in caplog.records if record.name != "asyncio"]
    assert told == [
        ("INFO", "tokenwell.engine", "device: cpu"),
        ("WARNING", "tokenwell.engine.load", "little memory: 1 GiB"),
        ("INFO", "tokenwell.engine", "INFO elsewhere: a library's line"),
        ("ERROR", "tokenwell.engine", "it broke"),
    ]


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(TokenwellError, match="cannot start the engine"):
        await EngineProcess.start(["/nowhere/python"])
