"""Ranks as threads of one process: what they exchange, and that a model on four of them says what it says on one."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tests.conftest import Tiny
from tests.tiny import build
from tests.tiny.shapes import draw
from tests.waiting import PATIENCE_S

from tokenwell.engine.load import Loaded, load, scheduler_for
from tokenwell.engine.platform import choose
from tokenwell.engine.platform.cpu import CpuPlatform
from tokenwell.engine.ranks import trial
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.schedule.plan import StepPlan
from tokenwell.wire.errors import CheckpointError, SettingsError
from tokenwell.wire.messages import Choice, Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec


class Meeting:
    """Where the threads exchange tensors."""

    def __init__(self, world: int) -> None:
        self._barrier = threading.Barrier(world, timeout=PATIENCE_S)
        self._brought: list[Any] = [None] * world

    def all(self, rank: int, x: torch.Tensor) -> list[torch.Tensor]:
        """What every rank brought."""
        self._brought[rank] = x.clone()
        self._barrier.wait()
        found = list(self._brought)
        self._barrier.wait()
        return found


class Threads(Ranks):
    """A rank that is a thread."""

    def __init__(self, meeting: Meeting, rank: int, world: int, tell: Callable[[StepPlan], None] | None = None) -> None:
        super().__init__(rank, world, tell=tell)
        self.meeting = meeting

    def _sum(self, x: torch.Tensor) -> None:
        x.copy_(torch.stack(self.meeting.all(self.rank, x)).sum(0))

    def _gather(self, parts: list[torch.Tensor], x: torch.Tensor) -> None:
        for part, brought in zip(parts, self.meeting.all(self.rank, x), strict=True):
            part.copy_(brought)

    def _spread(self, x: torch.Tensor) -> None:
        x.copy_(self.meeting.all(self.rank, x)[0])


def on_all(world: int, work: Callable[[Threads], Any]) -> list[Any]:
    """`work` on every rank at once."""
    meeting = Meeting(world)
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: work(Threads(meeting, rank, world)), range(world)))


def test_the_self_test_passes() -> None:
    on_all(3, trial.check)


@pytest.mark.parametrize("broken", ["_sum", "_gather", "_spread"])
def test_the_self_test_sees_one_wrong_number(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    real = getattr(Threads, broken)

    def wrong(ranks: Threads, *tensors: Any) -> None:
        real(ranks, *tensors)
        if ranks.rank == 1:
            target = tensors[0][-1] if broken == "_gather" else tensors[0]
            if len(target) > 5000:
                target[5000] += 1

    monkeypatch.setattr(Threads, broken, wrong)

    def check(ranks: Threads) -> str:
        try:
            trial.check(ranks)
        except trial.ExchangeError as error:
            ranks.meeting._barrier.abort()
            return str(error)
        except threading.BrokenBarrierError:
            pass
        return ""

    [told] = filter(None, on_all(2, check))
    assert "1048576 numbers in float32 came out wrong in 1 places: number" in told


def test_what_is_exchanged() -> None:
    def work(ranks: Threads) -> tuple[Any, ...]:
        x = torch.tensor([[1.0, ranks.rank]])
        with ranks.apart():
            assert ranks.all_reduce(x.clone()).equal(x) and ranks.gather_last(x).shape == (1, 6) and ranks.leads
        least = ranks.least([5 - ranks.rank, ranks.rank])
        return ranks.all_reduce(x.clone()).tolist(), ranks.gather_last(x).tolist(), ranks.share(x).tolist(), least

    assert on_all(3, work) == [([[3.0, 3.0]], [[1.0, 0.0, 1.0, 1.0, 1.0, 2.0]], [[1.0, 0.0]], [3, 0])] * 3


@pytest.mark.parametrize("fault", ["", "cannot open", "wrong sum"])
def test_small_sums_take_the_short_way_if_that_adds_up_on_every_rank(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    here = threading.local()
    direct = []

    class Direct:
        def __init__(self, device: torch.device) -> None:
            if fault == "cannot open" and here.ranks.rank == 1:
                raise RuntimeError("no peer access\nand more")

        def takes(self, x: torch.Tensor) -> bool:
            return x.numel() < 5000

        def sum(self, x: torch.Tensor) -> torch.Tensor:
            direct.append(x.numel())
            total = torch.stack(here.ranks.meeting.all(here.ranks.rank, x)).sum(0)
            return total + (fault == "wrong sum" and here.ranks.rank == 1)

    monkeypatch.setattr(trial, "DirectSums", Direct)

    def work(ranks: Threads) -> tuple[str, float]:
        here.ranks = ranks
        return trial.open_direct(ranks), ranks.all_reduce(torch.full((777,), float(ranks.rank)))[0].item()

    assert on_all(1, trial.open_direct) == ["all sums by the library"]
    monkeypatch.setattr(trial, "DIRECT_DEVICES", ("cpu",))
    (one, first), (two, second) = on_all(2, work)
    assert first == second == 1.0
    assert direct.count(777) == (0 if fault else 2)
    if not fault:
        assert one == two == "small sums through memory that the cards share"
    else:
        why = "no peer access" if fault == "cannot open" else "the sum of 1 numbers in float32 came out wrong"
        assert "(another rank cannot)" in one and why in two


def spec_of(folder: Path, world: int) -> EngineSpec:
    return EngineSpec(
        str(folder), "", "", device="cpu", dtype="float32", tp=world, threads=1, max_num_seqs=4, max_num_batched_tokens=16,
        kv_cache_gib=0.002,
    )  # fmt: skip


def follow(loaded: Loaded, plans: queue.SimpleQueue[StepPlan | None]) -> None:
    """What a rank behind rank 0 does."""
    while (plan := plans.get()) is not None:
        loaded.worker.draw(loaded.worker.launch(plan))


def answer(folder: Path, world: int, requests: list[Generate]) -> dict[str, Any]:
    """Tokens and prompt log-probabilities by request, computed on so many ranks."""
    meeting = Meeting(world)
    plans: list[queue.SimpleQueue[StepPlan | None]] = [queue.SimpleQueue() for _ in range(1, world)]

    def tell(plan: StepPlan | None) -> None:
        for one in plans:
            one.put(plan)

    def start(rank: int) -> Loaded:
        ranks = Threads(meeting, rank, world, tell if rank == 0 else None)
        return load(spec_of(folder, world), lambda platform, size: (ranks, Choice("ranks", str(world), "a test")), rank)

    found: dict[str, Any] = {request.id: ([], []) for request in requests}
    with ThreadPoolExecutor(world) as pool:
        first, *others = pool.map(start, range(world))
        following = [pool.submit(follow, *pair) for pair in zip(others, plans, strict=True)]
        scheduler = scheduler_for(first.ready, prefix_cache=True)
        for request in requests:
            assert scheduler.add(request) is None
        try:
            while (plan := scheduler.schedule()) is not None:
                for output in scheduler.apply(first.worker.run(plan)):
                    tokens, logprobs = found[output.id]
                    tokens += output.tokens
                    logprobs += [one.logprob for one in output.prompt_logprobs or ()]
        except BaseException:
            meeting._barrier.abort()
            raise
        finally:
            tell(None)
        for future in following:
            future.result()
    return found


def alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same tokens, and log-probabilities that differ by the order of sums at most."""
    assert {id: tokens for id, (tokens, _) in one.items()} == {id: tokens for id, (tokens, _) in other.items()}
    for id, (_, logprobs) in one.items():
        assert logprobs == pytest.approx(other[id][1], abs=1e-4)


SHARED = [("qwen3", 4), ("gemma4-dense", 4), ("qwen3-moe", 2), ("gemma4-e", 2), ("gemma4-moe", 2)]


@pytest.mark.parametrize(("name", "world"), SHARED)
def test_ranks_say_what_one_says(tiny: Tiny, name: str, world: int) -> None:
    """With fewer key heads than ranks they are repeated; prompts in pieces, penalties, chance and few pages."""
    samplings = [
        Sampling(temperature=0, max_tokens=12, prompt_logprobs=0),
        Sampling(temperature=0.8, seed=1, max_tokens=12, top_k=20),
        Sampling(temperature=0.8, seed=2, max_tokens=12, repetition_penalty=1.3),
        Sampling(temperature=0, max_tokens=12, frequency_penalty=0.7),
        Sampling(temperature=1, seed=5, max_tokens=12),
    ]
    prompts = [[7 * place % 90 + 10 for place in range(start, start + 11 * start)] for start in range(1, 6)]
    requests = [Generate(str(place), *pair) for place, pair in enumerate(zip(prompts, samplings, strict=True))]
    alike(answer(tiny(name), world, requests), answer(tiny(name), 1, requests))


@pytest.mark.parametrize("seed", range(16))
def test_ranks_say_what_one_says_whatever_the_shape(seed: int, tmp_path: Path) -> None:
    """Or it is said at once that so many ranks cannot share it."""
    folder = build.write(draw(seed), tmp_path / "checkpoint")
    prompt = [7 * place % 90 + 10 for place in range(40)]
    requests = [Generate("a", prompt, Sampling(temperature=0, max_tokens=12, prompt_logprobs=0))]
    try:
        two = answer(folder, 2, requests)
    except CheckpointError as error:
        assert "number of ranks" in str(error)
    else:
        alike(two, answer(folder, 1, requests))


def test_cards_are_counted_from_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = ModuleType("three_cards")
    cards.reason_not = lambda index: None if index < 3 else "there are only 3 cards"  # type: ignore[attr-defined]
    cards.open_device = lambda index, threads: SimpleNamespace(describe=lambda: f"card {index}")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, cards.__name__, cards)
    monkeypatch.setitem(choose._KINDS, "cuda", cards.__name__)
    assert [choose.open_platform("auto", 1, card)[1].chosen for card in range(3)] == ["card 0", "card 1", "card 2"]
    assert choose.open_platform("cuda:1", 1, 1)[1].chosen == "card 2"
    with pytest.raises(SettingsError, match="from card 3 on cannot be used: there are only 3 cards"):
        choose.open_platform("auto", 1, 3)
    assert choose.open_platform("cpu", 1, 3)[0].name == "cpu"


def test_processes_share_a_cpu() -> None:
    shared = CpuPlatform(None)
    shared.sharers = 10_000
    told = shared.suit(1 << 40)
    assert told.chosen == "1" and "shared by 10000 processes" in told.reason
