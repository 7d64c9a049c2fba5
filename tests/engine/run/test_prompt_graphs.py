"""Recorded steps with prompts: the same tokens as without, whatever rows and padding are in them."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
import torch
from benchmarks.gpu.cases import CASES
from benchmarks.gpu.limit import facts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import Tiny
from tests.engine.run.recorded import NAMES, Repeated, answers

from tokenwell.engine import load as loading
from tokenwell.engine.load import load, scheduler_for
from tokenwell.engine.run import spare
from tokenwell.engine.run.batch import Batch, Work
from tokenwell.engine.run.graphs import DecodeGraphs, StepMemory
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.run.prompt_graphs import PROMPTS, PromptGraphs, Shape, most_pairs
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.tables import PageTables
from tokenwell.engine.run.worker import Beside
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.capacity import RECORDED_TOKENS, RECORDING_BYTES
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

GROUP = KvGroup("full", (0,), 1, 16, None, 64, 4)


@pytest.fixture
def prompts(recording: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device's name, on which steps with prompts are recorded, too."""
    if recording == "cpu":
        monkeypatch.setattr(spare, "Recording", Repeated)
        monkeypatch.setattr(loading, "_recorded_beside", lambda device, step_tokens: Beside(step_tokens))
    return recording


@pytest.mark.parametrize("name", NAMES)
def test_recorded_prompts_change_no_token(name: str, tiny: Tiny, prompts: str) -> None:
    """Short and long prompts, some in pieces and some behind a known prefix, among rows that go on."""
    generator = torch.Generator().manual_seed(5)
    known = torch.randint(0, 380, (40,), generator=generator).tolist()

    def request(index: int) -> Generate:
        prompt = torch.randint(0, 380, (2 + 11 * index % 80,), generator=generator).tolist()
        sampling: dict[str, Any] = {"temperature": 0.9, "seed": index} if index % 3 == 2 else {}
        return Generate(str(index), known[: 8 * (index % 4) + 8] + prompt, Sampling(max_tokens=9, **sampling))

    requests = [request(index) for index in range(12)]
    spec = {
        "device": prompts, "dtype": "float32", "max_num_seqs": 5, "max_model_len": 160, "kv_cache_gib": 0.02,
        "max_num_batched_tokens": 64 if prompts == "cpu" else 256,
    }  # fmt: skip
    plain = answers(load(EngineSpec(str(tiny(name)), "", "", graphs=False, **spec)), requests)
    loaded = load(EngineSpec(str(tiny(name)), "", "", **spec))
    graphs = loaded.worker.prompt_graphs
    assert graphs is not None
    assert answers(loaded, requests) == plain
    assert graphs.made
    while loaded.worker.prepare():
        pass
    loaded.worker.forget_rows()
    assert {Shape(0, size) for size in graphs.sizes} <= set(graphs.made)
    assert answers(loaded, requests) == plain


def test_what_cannot_be_recorded_is_launched(tiny: Tiny, prompts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise RuntimeError("not during capture")

    spec = {"device": prompts, "dtype": "float32", "max_num_seqs": 5, "max_model_len": 128, "kv_cache_gib": 0.02}
    requests = [Generate(str(index), [5 + index, 6, 7], Sampling(max_tokens=4)) for index in range(6)]
    plain = answers(load(EngineSpec(str(tiny("qwen3")), "", "", graphs=False, **spec)), requests)
    monkeypatch.setattr(spare, "Recording", refuse)
    loaded = load(EngineSpec(str(tiny("qwen3")), "", "", **spec))
    assert answers(loaded, requests) == plain
    assert loaded.worker.prompt_graphs is None
    assert loaded.worker.graphs is not None  # tokens alone can be


def test_recordings_of_all_kinds_can_be_forgotten(tiny: Tiny, prompts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the transport between ranks is closed."""
    monkeypatch.setattr(loading, "_recorded_beside", lambda device, step_tokens: Beside(step_tokens, 1))
    loaded = load(EngineSpec(str(tiny("qwen3")), "", "", device=prompts, dtype="float32", max_model_len=128, kv_cache_gib=0.02))
    worker = loaded.worker
    kinds = [weakref.ref(kind) for kind in (worker.graphs, worker.prompt_graphs, worker.shared_graphs) if kind is not None]
    assert len(kinds) == 3
    while worker.prepare():
        pass
    worker.forget_recordings()
    gc.collect()
    assert [kind() for kind in kinds] == [None] * 3
    answers(loaded, [Generate("a", [5, 6, 7], Sampling(max_tokens=4))])


def test_prompts_whose_log_probabilities_are_wanted_are_launched(tiny: Tiny, prompts: str) -> None:
    loaded = load(EngineSpec(str(tiny("qwen3")), "", "", device=prompts, dtype="float32", max_model_len=128, kv_cache_gib=0.02))
    scheduler = scheduler_for(loaded.ready, prefix_cache=False)
    for index in range(3):
        scheduler.add(Generate(str(index), [5, 6, 7], Sampling(max_tokens=1, prompt_logprobs=1)))
        plan = scheduler.schedule()
        assert plan is not None
        (output,) = scheduler.apply(loaded.worker.run(plan))
        assert output.prompt_logprobs
    assert loaded.worker.prompt_graphs is not None
    assert not loaded.worker.prompt_graphs.made


def fresh(seqs: int = 4, window: int = 4096, most: int = 2048, planned: int = 0) -> PromptGraphs:
    """Graphs of no model."""

    def forward(batch: Batch) -> torch.Tensor:
        return torch.zeros(batch.rows - 1, 3)

    tables = PageTables((GROUP,), seqs, window, torch.device("cpu"))
    memory = StepMemory((), (), tables, torch.zeros(seqs + 1, dtype=torch.int64), window)
    return PromptGraphs(forward, memory, DecodeGraphs(forward, memory, seqs), seqs, most, 1 << 23, lambda: planned, Ranks())


def work_of(counts: list[tuple[int, int]]) -> list[Work]:
    """One row each: where it starts and how many tokens it has in the step."""
    return [
        Work(Row(slot, list(range(start + count)), start + count, Sampling()), start, count, 1)
        for slot, (start, count) in enumerate(counts)
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 60), st.integers(2, 300)), min_size=1, max_size=PROMPTS))
def test_every_token_has_its_place(singles: int, prompts: list[tuple[int, int]]) -> None:
    graphs = fresh(seqs=40)
    work = work_of([(7 * index, 1) for index in range(singles)] + prompts)
    shape = graphs.shape_for(work)
    total = sum(count for _, count in prompts)
    if total > 2048:
        assert shape is None
        return
    assert shape is not None
    assert shape.singles >= singles
    assert shape.tokens >= total
    arrays = graphs._arrays(shape, work)
    ids, positions, token_rows, slots, lengths, starts, kept = (array.tolist() for array in arrays)
    assert len(ids) == len(positions) == len(token_rows) == sum(shape) == starts[-1]
    assert len(slots) == len(lengths) == len(starts) - 1 == len(kept) + 1 == shape.singles + PROMPTS + 1
    for place, item in enumerate(work):
        row = place if place < singles else shape.singles + place - singles
        here = slice(starts[row], starts[row + 1])
        assert positions[here] == ids[here] == list(range(item.start, item.start + item.count))
        assert set(token_rows[here]) == {row}
        assert (slots[row], lengths[row], kept[row]) == (item.row.slot, item.start + item.count, starts[row + 1] - 1)
    others = set(range(len(slots))) - {
        place if place < singles else shape.singles + place - singles for place in range(len(work))
    }
    for row in others:  # padding: within a row's window, in the slot that nobody reads
        assert slots[row] == 40
        assert positions[starts[row] : starts[row + 1]] == list(range(starts[row + 1] - starts[row]))
        assert lengths[row] >= (row < len(kept))


def test_long_contexts_many_prompts_and_long_prompts_are_launched() -> None:
    graphs = fresh(window=1 << 17)
    assert graphs.shape_for(work_of([(5, 1), (0, 600)])) == (4, 768)
    assert graphs.shape_for(work_of([(0, 2048)])) == (0, 2048)
    assert graphs.shape_for(work_of([(0, 2049)])) is None
    assert graphs.shape_for(work_of([(100_000, 600)])) is None
    assert graphs.shape_for(work_of([(0, 2)] * (PROMPTS + 1))) is None
    many = fresh(seqs=512)
    assert many.shape_for(work_of([(5, 1)] * 300 + [(0, 2000)])) is None  # no more than RECORDED_TOKENS
    assert sum(many.shape_for(work_of([(5, 1)] * 300 + [(0, 1500)])) or ()) <= RECORDED_TOKENS
    small = fresh(window=100)
    assert small.sizes == (32, 64)


@pytest.mark.parametrize(("name", "pairs"), [("qwen3-8b", 1 << 23), ("gpt-oss-20b", 1 << 24), ("gemma-4-e4b", 25 << 20)])
def test_where_few_layers_see_all_keys_longer_contexts_are_recorded(name: str, pairs: int) -> None:
    case = next(case for case in CASES if case.name == name)
    facts, _ = facts_of(case.config)
    assert most_pairs(facts.layers) == pytest.approx(pairs, rel=0.05)


def test_a_shape_is_recorded_when_it_is_needed_again_or_in_an_idle_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "Recording", Repeated)
    graphs = fresh(seqs=64)
    assert graphs.run(work_of([(5, 1)] * 9 + [(0, 100)])) is None
    found = graphs.run(work_of([(5, 1)] * 12 + [(0, 90), (0, 20)]))
    assert found is not None
    assert found[1] == [*range(12), 32, 33]
    assert graphs.made == [(32, 128)]
    while graphs.record_next():
        pass
    assert sorted(graphs.made) == [(singles, size) for singles in (0, 8, 32, 64) for size in graphs.sizes]


def test_where_memory_is_short_steps_are_launched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(spare, "Recording", Repeated)
    monkeypatch.setattr(spare, "spare_bytes", lambda device, planned: 1 << 20)
    graphs = fresh()
    caplog.set_level(logging.INFO, "tokenwell.engine")
    while graphs.record_next():
        pass
    assert [graphs.run(work_of([(0, 20)])) for _ in range(3)] == [None] * 3
    assert not graphs.made
    assert [record.message for record in caplog.records] == [
        "from prompts of 32 tokens beside 0 rows on, steps are not recorded: that takes 0.02 GiB, 0.00 are spare"
    ]


@pytest.mark.parametrize(("planned", "made"), [(0, True), (80 << 20, False)])
def test_what_other_steps_may_still_take_is_not_spare(planned: int, made: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare, "Recording", Repeated)
    monkeypatch.setattr(spare, "spare_bytes", lambda device, planned: (100 << 20) - planned)
    graphs = fresh(planned=planned)
    while graphs.record_next():
        pass
    assert bool(graphs.made) is made


def test_the_largest_step_and_decode_steps_to_come_are_planned_with(tiny: Tiny, prompts: str) -> None:
    loaded = load(
        EngineSpec(
            str(tiny("qwen3")), "", "", device=prompts, dtype="float32", max_num_seqs=5, max_model_len=128, kv_cache_gib=0.02
        )
    )
    worker = loaded.worker
    worker.step_bytes = 1 << 30
    before = worker.planned_bytes()
    assert before >= (1 << 30) + 5 * RECORDING_BYTES
    while worker.prepare():
        pass
    assert worker.planned_bytes() == 1 << 30
