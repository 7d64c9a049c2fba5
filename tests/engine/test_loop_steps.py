"""The loop in this process: overlapped steps bring what steps one after the other bring, and nobody waits longer than a step.

The worker is a real one on the CPU. What makes its steps overlap there is only that the loop is told so: tokens that are not
collected yet are then read from where an accelerator would have them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.conftest import Tiny

from tokenwell.engine.load import Loaded, load, scheduler_for
from tokenwell.engine.loop import Loop
from tokenwell.engine.run.worker import Step, Worker
from tokenwell.engine.schedule.plan import StepPlan, StepResult
from tokenwell.wire.channel import EngineChannel
from tokenwell.wire.messages import Abort, Generate, Message, Output, Outputs, Shutdown, ToEngine
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

DIGITS = "start: /[0-9]{5}/"


class Script(EngineChannel):
    """A channel that brings messages at given turns of the loop, and a Shutdown when all is answered."""

    def __init__(self, *arrivals: tuple[int, ToEngine]) -> None:
        self._arrivals = sorted(arrivals, key=lambda arrival: arrival[0])
        self._open = {message.id for _, message in arrivals if isinstance(message, Generate)}
        self.turn = 0
        self.told: dict[str, list[Output]] = {}
        self.turns: dict[str, list[int]] = {}
        self.sent: list[Outputs] = []

    def receive(self, timeout_ms: int) -> Iterator[ToEngine]:
        self.turn += 1
        if timeout_ms > 1 and self._arrivals:
            self.turn = max(self.turn, self._arrivals[0][0])  # an idle loop has nothing better to do than to wait
        while self._arrivals and self._arrivals[0][0] <= self.turn:
            message = self._arrivals.pop(0)[1]
            if isinstance(message, Abort):
                self._open.discard(message.id)
            yield message
        assert self.turn < 5000
        if not self._open and not self._arrivals and timeout_ms > 1:
            yield Shutdown()

    def send(self, message: Message) -> None:
        assert isinstance(message, Outputs)
        self.sent.append(message)
        for output in message.items:
            self.told.setdefault(output.id, []).append(output)
            self.turns.setdefault(output.id, []).append(self.turn)
            if output.finish is not None:
                self._open.discard(output.id)


@dataclass
class Watched:
    """A worker whose calls are written down."""

    worker: Worker
    overlaps: bool
    calls: list[tuple[str, int]] = field(default_factory=list)

    @property
    def grammars(self) -> Any:
        return self.worker.grammars

    def prepare(self) -> None:
        self.worker.prepare()

    def launch(self, plan: StepPlan) -> Step:
        self.calls.append(("launch", plan.step))
        return self.worker.launch(plan)

    def draw(self, step: Step) -> None:
        self.calls.append(("draw", step.plan.step))
        self.worker.draw(step)

    def collect(self, step: Step) -> StepResult:
        self.calls.append(("collect", step.plan.step))
        return self.worker.collect(step)


class Pulse:
    """What the loop tells about its steps."""

    step_started: float | None = None


@dataclass
class Played:
    """What came of a script."""

    channel: Script
    worker: Watched
    loop: Loop
    pulse: Pulse

    @property
    def tokens(self) -> dict[str, list[int]]:
        return {id: [token for output in outputs for token in output.tokens] for id, outputs in self.channel.told.items()}


@pytest.fixture(scope="module")
def loaded(tiny: Tiny) -> Loaded:
    """Two pages more than the longest request needs, so that rows are preempted."""
    spec = EngineSpec(
        str(tiny("qwen2")), "", "", device="cpu", dtype="float32", threads=1, max_num_seqs=4, max_num_batched_tokens=32,
        max_model_len=160, kv_cache_gib=0.01,
    )  # fmt: skip
    page_bytes = load(spec).ready.page_bytes
    return load(msgspec.structs.replace(spec, kv_cache_gib=(160 // 16 + 3 + 0.5) * page_bytes / 2**30))


def play(loaded: Loaded, overlap: bool, *arrivals: tuple[int, ToEngine]) -> Played:
    loaded.worker.forget_rows()
    channel, worker, pulse = Script(*arrivals), Watched(loaded.worker, overlap), Pulse()
    scheduler = scheduler_for(loaded.ready, True)
    loop = Loop(channel, scheduler, worker, loaded.ready.vocab_size, pulse)  # type: ignore[arg-type]
    loop.run()
    scheduler.check()
    assert scheduler.idle and scheduler.stats().pages_active == 0
    assert pulse.step_started is None
    return Played(channel, worker, loop, pulse)


def prompt(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(256), k=length)


def requests(seed: int) -> list[tuple[int, ToEngine]]:
    """Arrivals of all kinds of requests; some leave early."""
    chance = random.Random(seed)
    shared = prompt(seed, 60)
    arrivals: list[tuple[int, ToEngine]] = []
    for number in range(12):
        at = chance.randint(1, 25)
        sampling = Sampling(
            temperature=chance.choice([0.0, 1.0]),
            seed=number,
            max_tokens=chance.choice([0, 1, 5, 60, 90, 90]),
            stop_ids=tuple(range(0, 300, 50)) if chance.random() < 0.25 else (),
            presence_penalty=chance.choice([0.0, 0.0, 1.5]),
            repetition_penalty=chance.choice([1.0, 1.0, 1.3]),
            min_tokens=chance.choice([0, 4]),
            logprobs=chance.choice([None, 2]),
            prompt_logprobs=chance.choice([None, None, 0]),
            grammar=chance.choice([None, None, DIGITS]),
        )
        tokens = shared[: chance.choice([0, 30, 60])] + prompt(seed * 100 + number, chance.randint(1, 50))
        arrivals.append((at, Generate(f"r{number}", tokens, sampling)))
        if number % 6 == 5:
            arrivals.append((at + chance.randint(0, 20), Abort(f"r{number}")))
    return arrivals


def test_overlapped_steps_bring_the_same(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenwell.engine.schedule.scheduler.HEADROOM_TOKENS", 1)  # so that rows are preempted
    preemptions = [0, 0]
    for seed in range(5):
        arrivals = requests(seed)
        both = play(loaded, False, *arrivals), play(loaded, True, *arrivals)
        for number, played in enumerate(both):
            preemptions[number] += played.channel.sent[-1].stats.preemptions
        gone = {message.id for _, message in arrivals if isinstance(message, Abort)}
        for id in {f"r{number}" for number in range(12)} - gone:
            check_same(*(played.channel.told[id] for played in both))
    assert all(preemptions)


def check_same(plain: list[Output], overlapped: list[Output]) -> None:
    tokens = [[token for output in outputs for token in output.tokens] for outputs in (plain, overlapped)]
    assert tokens[0] == tokens[1]
    ends = [(outputs[-1].finish, outputs[-1].stop_id, outputs[-1].error) for outputs in (plain, overlapped)]
    assert ends[0] == ends[1]
    for name in ("logprobs", "prompt_logprobs"):
        both = [[item.logprob for output in outputs for item in getattr(output, name) or []] for outputs in (plain, overlapped)]
        assert both[0] == pytest.approx(both[1], abs=1e-4)


def test_the_next_step_is_launched_before_the_last_is_collected(loaded: Loaded) -> None:
    request = Generate("a", prompt(1, 10), Sampling(temperature=0.0, max_tokens=4))
    calls = play(loaded, True, (1, request)).worker.calls
    assert calls == [
        ("launch", 1), ("draw", 1),
        ("launch", 2), ("collect", 1), ("draw", 2),
        ("launch", 3), ("collect", 2), ("draw", 3),
        ("launch", 4), ("collect", 3), ("draw", 4),
        ("collect", 4),
    ]  # fmt: skip
    calls = play(loaded, False, (1, request)).worker.calls
    assert calls == [(name, step) for step in range(1, 5) for name in ("launch", "draw", "collect")]


@pytest.mark.parametrize("overlap", [False, True])
def test_who_arrives_amid_steps_is_not_kept_waiting(loaded: Loaded, overlap: bool) -> None:
    busy = Generate("busy", prompt(1, 10), Sampling(temperature=0.0, max_tokens=60))
    late = Generate("late", prompt(2, 10), Sampling(temperature=0.0, max_tokens=3))
    bad = Generate("bad", [], Sampling())
    played = play(loaded, overlap, (1, busy), (20, late), (21, bad), (25, Abort("busy")))
    assert played.channel.turns["late"][0] == 20 + overlap
    assert played.channel.turns["bad"] == [21]
    assert max(played.channel.turns["busy"]) < 25


@pytest.mark.parametrize("overlap", [False, True])
def test_an_error_in_a_step_ends_the_loop(loaded: Loaded, overlap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: Step) -> StepResult:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(loaded.worker, "collect", fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        play(loaded, overlap, (1, Generate("a", [1, 2], Sampling(max_tokens=5))))


@pytest.mark.parametrize("overlap", [False, True])
def test_the_pulse_knows_when_a_step_began(loaded: Loaded, overlap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float | None] = []
    collect = Watched.collect

    def look(self: Watched, step: Step) -> StepResult:
        seen.append(pulse.step_started)
        return collect(self, step)

    pulse = Pulse()
    monkeypatch.setattr(Watched, "collect", look)
    monkeypatch.setattr(f"{__name__}.Pulse", lambda: pulse)
    play(loaded, overlap, (1, Generate("a", [1, 2], Sampling(max_tokens=5))))
    assert len(seen) == 5 and None not in seen and len(set(seen)) > 1


@pytest.mark.parametrize("overlap", [False, True])
def test_a_long_prompt_does_not_make_others_wait_long(loaded: Loaded, overlap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes 10 ms a step and 5 ms a token of a prompt, so 32 at a time 0.17 s."""
    now, free, took = 0.0, 0.0, list[tuple[int, float]]()
    launch, collect = Watched.launch, Watched.collect

    def start(self: Watched, plan: StepPlan) -> Step:
        nonlocal now, free
        tokens = sum(run.count for run in plan.run if run.count > 1)
        took.append((tokens, 0.01 + 0.005 * tokens))
        free = max(now, free) + took[-1][1]
        now = now if overlap else free
        return launch(self, plan)

    def finish(self: Watched, step: Step) -> StepResult:
        nonlocal now
        # What was launched after this step is not done yet.
        now = max(now, free - (took[-1][1] if step.plan.step < len(took) else 0.0))
        return collect(self, step)

    monkeypatch.setattr(Watched, "launch", start)
    monkeypatch.setattr(Watched, "collect", finish)
    monkeypatch.setattr("tokenwell.engine.loop.time", SimpleNamespace(perf_counter=lambda: now, monotonic=time.monotonic))
    busy = Generate("busy", prompt(1, 20), Sampling(temperature=0.0, max_tokens=60))
    play(loaded, overlap, (1, busy), (9, Generate("long", prompt(2, 100), Sampling(temperature=0.0, max_tokens=2))))
    beside = [tokens for tokens, _ in took[1:] if tokens]
    assert sum(beside) >= 99  # a token that is left for a step of its own is none of a prompt
    assert 18 <= max(beside) <= 22
