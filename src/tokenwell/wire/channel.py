"""Framing of messages on ZMQ sockets: PUSH/PULL pairs over ipc, one socket a direction, msgpack bodies.

The gateway binds both ends and the engine connects, so a killed engine leaves nothing to clean up. Several threads of the
engine may speak (each has a Speaker of its own); ZMQ sockets themselves are never shared between threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import zmq

from tokenwell.wire.messages import FromEngine, Message, ToEngine

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


def encode(message: Message) -> bytes:
    """Bytes of any message."""
    return _encoder.encode(message)


def decode_to_engine(data: bytes) -> ToEngine:
    """A message that the gateway sent."""
    return _to_engine.decode(data)


def decode_from_engine(data: bytes) -> FromEngine:
    """A message that the engine sent."""
    return _from_engine.decode(data)


class Speaker:
    """Sends to whoever bound `endpoint`. Has a ZMQ context of its own: only the end of a context waits for what is queued."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.connect(endpoint)

    def send(self, message: Message) -> None:
        """Queue a message; never blocks."""
        self._socket.send(encode(message))

    def close(self) -> None:
        """Wait until what is queued has left this process, at most one second, and close: the process may end then."""
        self._socket.close(linger=1000)
        self._context.term()


class EngineChannel:
    """The engine's blocking end: receives ToEngine, sends FromEngine. Use from one thread only."""

    def __init__(self, commands: str, events: str) -> None:
        self._commands: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._commands.connect(commands)
        self._speaker = Speaker(events)

    def send(self, message: Message) -> None:
        """Queue a message for the gateway; never blocks."""
        self._speaker.send(message)

    def receive(self, timeout_ms: int) -> Iterator[ToEngine]:
        """Every message that waits; if none does, wait up to `timeout_ms` for the first (0: do not wait)."""
        if timeout_ms and not self._commands.poll(timeout_ms):
            return
        while True:
            try:
                data = self._commands.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield decode_to_engine(data)

    def close(self) -> None:
        """Flush what is queued (at most one second) and close."""
        self._speaker.close()
        self._commands.close(linger=0)
