"""One engine process: its own process group, its output in our log, its certain end. Knows nothing of what it computes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections import deque
from collections.abc import Sequence

from tokenwell.wire.errors import TokenwellError

_log = logging.getLogger("tokenwell.engine")
LAST_LINES_S = 1.0  # how long a grandchild may hold the pipe open after the engine's end
# A line of the engine's own log, whose level and logger are kept; other lines are traces and what libraries print.
_LOG_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL) (tokenwell\.\S+): (.*)")


class EngineProcess:
    """A started engine. Make one with `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._tail: deque[str] = deque(maxlen=20)
        self._reader = asyncio.create_task(self._read_output())

    @classmethod
    async def start(cls, command: Sequence[str]) -> EngineProcess:
        """Start `command` as the leader of a new session. Raises TokenwellError when that is impossible."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise TokenwellError(f"cannot start the engine ({command[0]}): {error}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    async def wait(self) -> str:
        """Wait for the end; how it ended, in words, with the last line that it printed."""
        code = await self._process.wait()
        with contextlib.suppress(asyncio.TimeoutError):  # a grandchild may hold the pipe open
            await asyncio.wait_for(asyncio.shield(self._reader), LAST_LINES_S)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        last = next((line for line in reversed(self._tail) if line.strip()), "")
        return f"the engine {how}" + (f": {last.strip()}" if last else "")

    async def end(self) -> None:
        """Kill whatever is left of the group and reap it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _read_output(self) -> None:
        """Copy the engine's output to the log line by line; overlong lines are cut into pieces, never an error."""
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        while data := await stream.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > 65536:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._put(line)
        if rest:
            self._put(rest)

    def _put(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        match = _LOG_LINE.fullmatch(text)
        level, name, message = match.groups() if match else ("INFO", _log.name, text)
        self._tail.append(message)
        logging.getLogger(name).log(logging.getLevelNamesMapping()[level], "%s", message)
