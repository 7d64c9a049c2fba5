"""Rank 0's side of tensor parallelism: starts the other ranks, lets them prove themselves, watches them, tells them plans.

The watch is a thread of its own, because a collective call that never returns would block everything else: when a rank
is lost, or the self-test takes too long, it says so to the gateway and ends this process, the other ranks with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import zmq

from tokenwell.engine.ranks.channel import PlanSender
from tokenwell.wire.channel import Speaker, decode_from_engine
from tokenwell.wire.errors import TokenwellError
from tokenwell.wire.messages import Choice, Fatal, Heartbeat
from tokenwell.wire.spec import EngineSpec, encode_spec

if TYPE_CHECKING:
    from tokenwell.engine.platform.base import Platform
    from tokenwell.engine.run.parallel import Ranks

STAGES = ("loading", "meeting", "trusted", "serving")  # of a rank's life, in order
START_S = 120.0  # interpreter, imports and the device, before a rank can meet the others
TRIAL_S = 20.0  # for making the group and the whole self-test
SILENCE_S = 10.0  # a rank beats once a second
_LAST_WORDS_S = 0.5  # how long what a rank said before its end may be on its way
_LOOK_MS = 100
_LEAVE_S = 2.0
_ROOM = 1.15  # a model needs more than its weights: activations, libraries, some KV cache

log = logging.getLogger("tokenwell.engine")


class _Rank:
    """One other rank."""

    def __init__(self, events: str, command: list[str]) -> None:
        self._events: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._events.bind(events)
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.stage = 0  # index into STAGES
        self.heard_at: float | None = None
        self.fatal: Fatal | None = None

    def hear(self, patience_ms: int = 0) -> None:
        """Read everything that the rank has said, waiting so long for a first word."""
        while self._events.poll(patience_ms):
            message = decode_from_engine(self._events.recv())
            self.heard_at = time.monotonic()
            if isinstance(message, Fatal):
                self.fatal = message
            elif isinstance(message, Heartbeat):
                self.stage = max(self.stage, STAGES.index(message.stage))
            patience_ms = 0

    def end(self, within_s: float) -> None:
        """Wait so long for its end, then kill it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, within_s))
        self.process.kill()
        self.process.wait()
        self._events.close(linger=0)


class Team:
    """The other ranks of an engine. A context manager: leaving it ends them."""

    def __init__(self, spec: EngineSpec) -> None:
        """Start ranks 1 .. tp-1. Returns at once; `join` waits for them."""
        self._spec = spec
        own = spec.commands.removeprefix("ipc://")
        inside = Path(own).parent if own != spec.commands else None  # the gateway's folder, which it removes in any case
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=inside))  # mode 0700: nobody else can meet the ranks
        self._store = self._folder / "store"
        plans = {rank: f"ipc://{self._folder}/plans-{rank}" for rank in range(1, spec.tp)}
        self._plans = PlanSender(list(plans.values()))
        self._ranks: dict[int, _Rank] = {}
        for rank, endpoint in plans.items():
            events = f"ipc://{self._folder}/events-{rank}"
            order = msgspec.structs.replace(spec, commands=endpoint, events=events, parent_pid=os.getpid())
            # The spec comes last, where whoever looks for an engine's order in a list of processes finds it.
            program = [sys.executable, "-m", "tokenwell.engine", "--rank", str(rank), "--store", str(self._store)]
            self._ranks[rank] = _Rank(events, [*program, "--spec", encode_spec(order)])
        self._reached = [threading.Event() for _ in STAGES]
        self._limits: dict[str, float] = {"start": time.monotonic() + START_S}
        self._trial = "is not over"
        self._apart = False
        self._closing = False
        self._ending = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and not isinstance(error, TokenwellError):
            # A rank's death breaks a call here before the watch has seen it, which knows which rank it was: it ends us then.
            time.sleep(2 * _LOOK_MS / 1000 + _LAST_WORDS_S)
        self._closing = True
        self._watcher.join()
        if error is None:
            from tokenwell.engine.run.parallel import disconnect

            self._plans.leave()
            disconnect()
        self._plans.close()
        deadline = time.monotonic() + (_LEAVE_S if error is None else 0.0)
        for rank in self._ranks.values():
            rank.end(deadline - time.monotonic())
        shutil.rmtree(self._folder, ignore_errors=True)

    def join(self, platform: Platform, weights_bytes: int) -> tuple[Ranks, Choice]:
        """Meet the ranks and let all of them pass the self-test, in time: else the process ends here, and says why."""
        from tokenwell.engine.ranks import trial
        from tokenwell.engine.run.parallel import BACKENDS, connect

        self._reached[STAGES.index("meeting")].wait()
        del self._limits["start"]
        began = time.monotonic()
        over = f"{self._spec.tp} ranks over {BACKENDS[platform.device.type]}"
        self._apart = _ROOM * weights_bytes < platform.free_bytes()
        self._trial = f"tensor parallelism of {over} failed its self-test"
        self._limits["trial"] = began + TRIAL_S
        try:
            ranks = connect(0, self._spec.tp, platform.device, self._store, self._plans.send)
            trial.check(ranks)
            sums = trial.open_direct(ranks)
        except Exception as error:
            said = str(error) if isinstance(error, TokenwellError) else f"{type(error).__name__}: {error}"
            self._end(self._failed_trial(f"rank 0: {said}"))
        self._reached[STAGES.index("trusted")].wait()
        del self._limits["trial"]
        took = time.monotonic() - began
        return ranks, Choice("tensor parallel", over, f"self-test passed in {took:.2f} s; {sums}")

    # ------------------------------------------------------------------ the watch

    def _watch(self) -> None:
        try:
            self._look()
        except Exception as error:  # nobody else would notice
            self._end(Fatal(f"the watch over the ranks failed: {type(error).__name__}: {error}", retry=True))

    def _look(self) -> None:
        while not self._closing:
            for rank, state in self._ranks.items():
                state.hear(_LOOK_MS // len(self._ranks))
                if (why := self._loss(rank, state)) is not None and not self._closing:
                    self._end(why)
            for stage in range(min(state.stage for state in self._ranks.values()) + 1):
                self._reached[stage].set()
            for what, limit in list(self._limits.items()):
                if time.monotonic() > limit and not self._closing:
                    self._end(self._late(what))

    def _loss(self, rank: int, state: _Rank) -> Fatal | None:
        """Why a rank is lost, if it is."""
        code = state.process.poll()
        if code is not None:
            until = time.monotonic() + _LAST_WORDS_S
            while state.fatal is None and time.monotonic() < until:
                state.hear(_LOOK_MS)
        if state.fatal is not None:
            why, retry = state.fatal.message, state.fatal.retry
        elif code is not None:
            why, retry = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}", True
        elif state.heard_at is not None and time.monotonic() - state.heard_at > SILENCE_S:
            why, retry = f"has been silent for {SILENCE_S:g} s", True
        else:
            return None
        said = f"rank {rank} {why}" if state.fatal is None else f"rank {rank}: {why}"
        return self._failed_trial(said) if "trial" in self._limits else Fatal(said, retry)

    def _late(self, what: str) -> Fatal:
        missing = [str(rank) for rank, state in self._ranks.items() if state.stage < STAGES.index("trusted")]
        who = f"rank {', '.join(missing)}" if missing else "rank 0"
        if what == "start":
            return Fatal(f"{who} did not start within {START_S:g} s", retry=True)
        return self._failed_trial(f"{who} hung: it did not pass within {TRIAL_S:g} s")

    def _failed_trial(self, why: str) -> Fatal:
        if self._apart:
            remedy = "Each card can hold the model by itself"
        else:
            remedy = (
                "The model does not fit one card, so there is nothing to fall back to: use --quantization fp8 or a smaller model "
                "with --tp 1, or mend the transport between the cards"
            )
        return Fatal(f"{self._trial}: {why}. {remedy}", retry=False, apart=self._apart)

    def _end(self, last: Fatal) -> None:
        """Tell the gateway, and end this process whatever its other threads are waiting for."""
        self._ending.acquire()  # for ever: whoever comes second has nothing to add
        log.error("%s", last.message)
        for rank in self._ranks.values():
            rank.process.kill()
        speaker = Speaker(self._spec.events)
        speaker.send(last)
        speaker.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)
