"""An engine's heartbeats as a gateway hears them."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from tokenwell.drivers.native import NativeEngine

pytestmark = pytest.mark.anyio

CODE = """
import sys
from tokenwell.wire.pulse import Pulse
pulse = Pulse(sys.argv[1], None)
with pulse.quiet(30.0):
    sys.stdin.readline()
sys.stdin.readline()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_silence_is_told_before_it_begins_and_when_it_is_over() -> None:
    engine = NativeEngine(lambda: None)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CODE, engine.events, stdin=subprocess.PIPE)
    assert process.stdin is not None
    while not engine.quiet_s:
        await asyncio.sleep(0.01)
    assert engine.quiet_s == 30
    process.stdin.write(b"\n")
    while engine.quiet_s:
        await asyncio.sleep(0.01)
    process.stdin.write(b"\n")
    assert await process.wait() == 0
    engine.close()
