"""One client request in the engine's hands: its sequences, what came back, and who waits for it.

Knows neither text nor dialect. The supervisor delivers, restarts or fails a job; exactly one task waits on it.
"""

from __future__ import annotations

import asyncio
from functools import partial

from tokenwell.drivers.native import Sink
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate, Output


class RequestFailed(Exception):  # noqa: N818 (it is an outcome that is told to the client, not a programming error)
    """A request cannot be answered. `error` says why; `retry_after_s` when trying again may help."""

    def __init__(self, error: RequestError, retry_after_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_s = retry_after_s


class JobRestarted(Exception):  # noqa: N818
    """The engine was replaced: everything delivered so far is void and will come again from the start."""


class Job:
    """The sequences of one client request. Outputs are tagged with the sequence's index."""

    def __init__(self, requests: list[Generate], noun: str) -> None:
        self.requests = requests
        self.noun = noun  # what the client calls its input in this dialect: "messages" or "prompt"
        self.started = False  # the client has seen a part of the answer, so it can no longer be replayed
        self.losses = 0  # engines that died while this job was open
        self._unfinished = len(requests)
        self._items: list[tuple[int, Output]] = []
        self._restarted = False
        self._failure: RequestFailed | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """True when the engine has delivered everything."""
        return self._unfinished == 0

    def sink(self, index: int) -> Sink:
        """Where the outputs of sequence `index` go."""
        return partial(self.deliver, index)

    def deliver(self, index: int, output: Output) -> None:
        """Hand over one output."""
        self._items.append((index, output))
        if output.finish is not None:
            self._unfinished -= 1
        self.wake()

    def restart(self) -> None:
        """Void what was delivered; the waiting task starts over."""
        self._items.clear()
        self._unfinished = len(self.requests)
        self._restarted = True
        self.wake()

    def fail(self, failure: RequestFailed) -> None:
        """End the job: the waiting task gets `failure` at once, ahead of anything still queued."""
        self._items.clear()
        self._failure = failure
        self.wake()

    def wake(self) -> None:
        """Make `take` return, with or without outputs."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[tuple[int, Output]]:
        """Everything delivered since the last call; waits if there is nothing. Empty after a bare `wake`.

        Raises RequestFailed after `fail` and JobRestarted once after `restart`.
        """
        if not self._items and not self._restarted and self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._failure is not None:
            raise self._failure
        if self._restarted:
            self._restarted = False
            raise JobRestarted
        items, self._items = self._items, []
        return items
