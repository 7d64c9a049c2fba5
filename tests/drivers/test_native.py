"""The gateway's end of the channel against a peer that speaks the real sockets."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq

from tokenwell.drivers.native import NativeEngine
from tokenwell.wire.channel import EngineChannel, Speaker
from tokenwell.wire.messages import Abort, Fatal, Generate, Heartbeat, Output, Outputs, Shutdown, Stats
from tokenwell.wire.sampling import Sampling

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Peer:
    """An engine's end in the same process, on its own thread's terms."""

    def __init__(self, engine: NativeEngine) -> None:
        self.channel = EngineChannel(engine.commands, engine.events)

    async def received(self, count: int) -> list[object]:
        """The next `count` messages."""
        found: list[object] = []
        while len(found) < count:
            found += await asyncio.to_thread(lambda: list(self.channel.receive(1000)))
        return found


@pytest.fixture
async def engine() -> AsyncIterator[NativeEngine]:
    native = NativeEngine(lambda: None)
    yield native
    native.close()


@pytest.fixture
async def peer(engine: NativeEngine) -> AsyncIterator[Peer]:
    peer = Peer(engine)
    peer.channel.send(Heartbeat(0.0, "loading"))
    while engine.silence_s() is None:
        await asyncio.sleep(0)
    yield peer
    peer.channel.close()


def request(name: str) -> Generate:
    return Generate(name, [1, 2], Sampling(logit_bias={3: 1.5}, stop_ids=(4,)))


async def test_without_an_engine_nobody_leaves(engine: NativeEngine) -> None:
    assert engine.shutdown() is False
    assert engine.silence_s() is None


async def test_an_engine_that_is_heard_before_it_can_hear(engine: NativeEngine) -> None:
    """Its two sockets are connected one after the other: what it cannot hear yet waits for it, in order."""
    early = Speaker(engine.events)
    early.send(Heartbeat(0.0, "serving"))
    while engine.silence_s() is None:
        await asyncio.sleep(0)
    engine.generate(request("a"), lambda output: None)
    engine.abort("a")
    engine.generate(request("b"), lambda output: None)
    peer = Peer(engine)
    assert await peer.received(3) == [request("a"), Abort("a"), request("b")]
    assert engine.shutdown() is True
    peer.channel.close()
    early.close()


async def test_the_sockets_are_private_and_go_away(engine: NativeEngine) -> None:
    folder = Path(engine.commands.removeprefix("ipc://")).parent
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    engine.close()
    engine.close()
    assert not folder.exists()


async def test_requests_and_aborts_arrive_in_order(engine: NativeEngine, peer: Peer) -> None:
    engine.generate(request("a"), lambda output: None)
    engine.generate(request("b"), lambda output: None)
    engine.abort("a")
    engine.abort("a")
    engine.abort("never")
    engine.shutdown()
    assert await peer.received(4) == [request("a"), request("b"), Abort("a"), Shutdown()]


async def test_outputs_reach_their_sinks_until_the_end(engine: NativeEngine, peer: Peer) -> None:
    heard: dict[str, list[Output]] = {"a": [], "b": []}
    done = asyncio.Event()
    for name in heard:
        engine.generate(request(name), heard[name].append)
    engine.generate(request("last"), lambda output: done.set())
    engine.abort("b")
    first, second = Output("a", [5]), Output("a", [6], finish="stop", stop_id=6)
    peer.channel.send(Outputs([first, Output("b", [7]), Output("unknown", [8])], Stats(steps=1)))
    peer.channel.send(Outputs([second, Output("a", [9])], Stats(steps=2)))
    peer.channel.send(Outputs([Output("last")], Stats(steps=3)))
    await done.wait()
    assert heard == {"a": [first, second], "b": []}
    assert engine.stats.steps == 3


async def test_a_flood_is_read_whole_and_in_order(engine: NativeEngine, peer: Peer) -> None:
    """More messages than one burst, some of them queued before the loop looks."""
    heard: list[int] = []
    done = asyncio.Event()

    def sink(output: Output) -> None:
        heard.extend(output.tokens)
        if output.finish:
            done.set()

    engine.generate(request("a"), sink)
    for token in range(1000):
        peer.channel.send(Outputs([Output("a", [token], finish="stop" if token == 999 else None)], Stats()))
    await done.wait()
    assert heard == list(range(1000))


async def test_last_words_arrive_however_quickly_the_engine_ends(engine: NativeEngine) -> None:
    """Those of a process that is gone at once after closing its channel."""
    last = Fatal("out of memory" * 100_000, retry=True)
    code = f"""
import os
from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.messages import Fatal
channel = EngineChannel({engine.commands!r}, {engine.events!r})
channel.send(Fatal("out of memory" * 100_000, retry=True))
channel.close()
os._exit(1)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 1
    while engine.fatal is None:
        await asyncio.sleep(0)
    assert engine.fatal == last


async def test_nonsense_is_fatal_but_may_be_retried(peer: Peer, engine: NativeEngine) -> None:
    changed = asyncio.Event()
    engine._on_change = changed.set
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(engine.events)
    socket.send(b"\xc1")
    await changed.wait()
    socket.close(linger=0)
    assert engine.fatal is not None and engine.fatal.retry and "cannot be read" in engine.fatal.message
