"""The gateway's end of the socket pair to one native engine process.

Owns the two ZMQ sockets, their private folder, and the table from request id to sink. Does not know who started the process,
what a request means, or what happens when the engine dies: one object serves one life of an engine, so nothing that a dead
engine sent can reach its successor's requests.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable

import msgspec
import zmq

from tokenwell.wire.channel import decode_from_engine, encode
from tokenwell.wire.errors import TokenwellError
from tokenwell.wire.messages import Abort, Fatal, Generate, Heartbeat, Output, Outputs, Ready, Shutdown, Stats, ToEngine

Sink = Callable[[Output], None]

# Messages handled before other callbacks of the event loop get their turn.
_BURST = 64
# How soon a message is tried again that found nobody connected.
_RETRY_S = 0.01


class NativeEngine:
    """One engine as the gateway sees it. Use from the event loop's thread only.

    `on_change` is called after Ready, Fatal or an unreadable message arrived; it must not raise.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        """Bind both sockets. Raises TokenwellError when the temporary folder cannot hold them."""
        self.ready: Ready | None = None
        self.fatal: Fatal | None = None
        self.stats = Stats()
        self.stage = "loading"
        self.step_age_s = 0.0
        self.heard_at: float | None = None  # time.monotonic() of the last heartbeat
        self.quiet_s = 0.0  # how much later than usual the next one may come
        self._on_change = on_change
        self._sinks: dict[str, Sink] = {}
        self._unsent: deque[bytes] = deque()  # an engine may be heard before its other socket is connected
        self._folder = tempfile.mkdtemp(prefix="tokenwell-")  # mode 0700: nobody else can speak to the engine
        self.commands = f"ipc://{self._folder}/commands"
        self.events = f"ipc://{self._folder}/events"
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._push: zmq.Socket[bytes] = context.socket(zmq.PUSH)
        self._pull: zmq.Socket[bytes] = context.socket(zmq.PULL)
        self._push.setsockopt(zmq.SNDHWM, 0)
        self._pull.setsockopt(zmq.RCVHWM, 0)
        try:
            self._push.bind(self.commands)
            self._pull.bind(self.events)
        except zmq.ZMQError as error:
            self._close_sockets()
            raise TokenwellError(f"cannot bind {self.commands}: {error}; set TMPDIR to a short writable folder") from error
        self._loop = asyncio.get_running_loop()
        self._file = int(self._pull.getsockopt(zmq.FD))
        self._loop.add_reader(self._file, self._receive)
        self._closed = False
        # The file descriptor only signals changes: what arrived before add_reader is read here.
        self._loop.call_soon(self._receive)

    def generate(self, request: Generate, sink: Sink) -> None:
        """Send a request, as soon as an engine is connected; each of its Outputs goes to `sink`."""
        self._sinks[request.id] = sink
        self._send(request)

    def abort(self, request_id: str) -> None:
        """Forget a request: its sink hears nothing more and the engine frees it within one step."""
        if self._sinks.pop(request_id, None) is not None:
            self._send(Abort(request_id))

    def shutdown(self) -> bool:
        """Ask the engine to leave. False when none is connected."""
        self._send(Shutdown())
        return not self._unsent

    def silence_s(self) -> float | None:
        """Seconds since the last heartbeat; None before the first."""
        return None if self.heard_at is None else time.monotonic() - self.heard_at

    def close(self) -> None:
        """Drop the sockets and every sink. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._sinks.clear()
        self._unsent.clear()
        self._loop.remove_reader(self._file)
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._push.close(linger=0)
        self._pull.close(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, message: ToEngine) -> None:
        self._unsent.append(encode(message))
        if len(self._unsent) == 1:  # else a retry is on its way
            self._flush()

    def _flush(self) -> None:
        while self._unsent:
            try:
                self._push.send(self._unsent[0], zmq.NOBLOCK)
            except zmq.Again:  # nobody is connected: the engine is gone, or not there yet
                self._loop.call_later(_RETRY_S, self._flush)
                return
            self._unsent.popleft()

    def _receive(self) -> None:
        if self._closed:
            return
        for _ in range(_BURST):
            try:
                data = self._pull.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(data)
            if self._closed:
                return
        # ZMQ's descriptor does not fire again for what is already queued.
        self._loop.call_soon(self._receive)

    def _take(self, data: bytes) -> None:
        try:
            message = decode_from_engine(data)
        except msgspec.DecodeError as error:
            self.fatal = Fatal(f"the engine sent a message that cannot be read: {error}", retry=True)
            self._on_change()
            return
        if isinstance(message, Outputs):
            self._dispatch(message)
        elif isinstance(message, Heartbeat):
            self.heard_at = time.monotonic()
            self.step_age_s = message.step_age_s
            self.stage = message.stage
            self.quiet_s = message.quiet_s
        elif isinstance(message, Ready):
            self.ready = message
            self.heard_at = time.monotonic()
            self._on_change()
        else:
            self.fatal = message
            self._on_change()

    def _dispatch(self, outputs: Outputs) -> None:
        self.stats = outputs.stats
        sinks = self._sinks
        for item in outputs.items:
            sink = sinks.get(item.id)
            if sink is None:  # aborted while this output was on its way
                continue
            if item.finish is not None:
                del sinks[item.id]
            sink(item)
