"""An engine's sign of life, from a thread of its own: a frozen process is silent, a stuck step shows its age.

For every program that speaks the wire protocol. Imports nothing slow, so that it beats before slow imports begin.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tokenwell.wire.channel import Speaker
from tokenwell.wire.messages import Heartbeat

_BEAT_S = 1.0


class Pulse:
    """Tells the gateway from a thread of its own that the process lives, and how long its step has been running."""

    def __init__(self, events: str, parent_pid: int | None) -> None:
        self.stage = "loading"
        self.step_started: float | None = None
        self._events = events
        self._parent_pid = parent_pid
        self._quiet_s = 0.0
        self._hurry, self._told = threading.Event(), threading.Event()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    @contextmanager
    def quiet(self, seconds: float) -> Iterator[None]:
        """Tells that the process may be silent for so long: a library is about to keep the interpreter to itself."""
        self._quiet_s = seconds
        self._told.clear()
        self._hurry.set()
        self._told.wait(_BEAT_S)
        try:
            yield
        finally:
            self._quiet_s = 0.0
            self._hurry.set()

    def _beat(self) -> None:
        speaker = Speaker(self._events)
        while True:
            if self._parent_pid is not None and os.getppid() != self._parent_pid:
                os._exit(0)  # the gateway is gone: nobody is left to answer
            started = self.step_started
            age = 0.0 if started is None else time.monotonic() - started
            quiet_s = self._quiet_s
            speaker.send(Heartbeat(age, self.stage, quiet_s))
            if quiet_s:
                self._told.set()
            self._hurry.wait(_BEAT_S)
            self._hurry.clear()
