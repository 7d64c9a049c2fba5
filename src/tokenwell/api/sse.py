"""Server-sent events: one framing function, headers at once, wall-clock keep-alives, and a client that leaves is noticed.

Knows no dialect: frames come from an async generator, keep-alive and error frames from the dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tokenwell.api.exchange import ClientGone

T = TypeVar("T")

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
)


def frame(data: bytes) -> bytes:
    """One event. `data` is JSON on one line."""
    return b"data: " + data + b"\n\n"


class EventStream(Response):
    """Sends `frames` as they come, and `keep_alive` (or what it makes) whenever nothing was sent for `keep_alive_s`.

    The generator yields b"" when it was woken by `wake` and has nothing to say; `wake` must make it yield soon. If it raises,
    `describe` makes the last frames from the exception. It is closed in every case, which is where its owner cleans up.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        wake: Callable[[], None],
        describe: Callable[[Exception], bytes],
        keep_alive: bytes | Callable[[], bytes],
        keep_alive_s: float,
    ) -> None:
        super().__init__(headers=None)
        self._frames = frames
        self._wake = wake
        self._describe = describe
        self._keep_alive = keep_alive
        self._keep_alive_s = keep_alive_s
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything. Raises ClientGone when the client left first."""
        loop = asyncio.get_running_loop()
        listener = loop.create_task(self._listen(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            self._sent_at = loop.time()
            self._arm(loop)
            try:
                await self._send_frames(loop, send)
            except ClientGone:
                raise
            except Exception as error:
                await send({"type": "http.response.body", "body": self._describe(error), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError as error:  # some servers raise instead of ignoring what is sent to a closed connection
            raise ClientGone from error
        finally:
            if self._timer is not None:
                self._timer.cancel()
            listener.cancel()
            await self._frames.aclose()

    async def _send_frames(self, loop: asyncio.AbstractEventLoop, send: Send) -> None:
        async for data in self._frames:
            if self._gone:
                raise ClientGone
            now = loop.time()
            if not data:
                if now - self._sent_at < self._keep_alive_s:
                    continue
                data = self._keep_alive if isinstance(self._keep_alive, bytes) else self._keep_alive()
            self._sent_at = now
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if self._gone:
            raise ClientGone

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer a stream: it looks when something was last sent instead of being set anew for every chunk."""
        silent_s = loop.time() - self._sent_at
        if silent_s >= self._keep_alive_s:
            self._wake()
            silent_s = 0.0
        self._timer = loop.call_later(self._keep_alive_s - silent_s, self._arm, loop)

    async def _listen(self, receive: Receive) -> None:
        await _disconnect(receive)
        self._gone = True
        self._wake()


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled, with ClientGone raised, as soon as the client leaves.

    Only after the request body was read: until then `receive` has other things to say.
    """
    task = asyncio.ensure_future(work)
    listener = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, listener}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        listener.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # it failed while it was being cancelled, and nobody is left to be told


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
