"""How plans reach the other ranks: sockets in rank 0's private folder. Signs of life come back as an engine sends them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import zmq

from tokenwell.engine.schedule.plan import StepPlan
from tokenwell.wire.channel import Speaker
from tokenwell.wire.messages import Message

_LEAVE = b""
_plan: msgspec.msgpack.Decoder[StepPlan] = msgspec.msgpack.Decoder(StepPlan)
_encoder = msgspec.msgpack.Encoder()


class PlanSender:
    """Rank 0's end: the same plan for every other rank. Use from one thread only."""

    def __init__(self, endpoints: list[str]) -> None:
        """Bind the endpoints; what is sent before a rank connects waits for it."""
        self._sockets: list[zmq.Socket[bytes]] = []
        for endpoint in endpoints:
            socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.bind(endpoint)
            self._sockets.append(socket)

    def send(self, plan: StepPlan) -> None:
        """Queue a plan."""
        self._put(_encoder.encode(plan))

    def leave(self) -> None:
        """Tell every rank to leave in order."""
        self._put(_LEAVE)

    def close(self) -> None:
        """Drop the sockets; what is queued may still go out for a second."""
        for socket in self._sockets:
            socket.close(linger=1000)

    def _put(self, data: bytes) -> None:
        for socket in self._sockets:
            socket.send(data)


class RankChannel:
    """Another rank's end: plans come in, signs of life and last words go out. Use from one thread only."""

    def __init__(self, plans: str, events: str) -> None:
        self._plans: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._plans.setsockopt(zmq.RCVHWM, 0)
        self._plans.connect(plans)
        self._speaker = Speaker(events)

    def send(self, message: Message) -> None:
        """Queue a message for rank 0; never blocks."""
        self._speaker.send(message)

    def plans(self) -> Iterator[StepPlan]:
        """Every plan in order, until rank 0 says to leave."""
        while (data := self._plans.recv()) != _LEAVE:
            yield _plan.decode(data)

    def close(self) -> None:
        """Flush what is queued (at most one second) and close."""
        self._speaker.close()
        self._plans.close(linger=0)
