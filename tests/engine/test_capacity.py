"""How many long requests the KV cache holds: the arithmetic, the scheduler and the bytes agree, and K == V pays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.models import registry
from tokenwell.engine.models.config import Raw
from tokenwell.engine.schedule.plan import Sampled, StepResult
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.wire.cache import KvGroup, LayerKv, concurrency, group_layers, sequence_pages, together_pages
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling

MODELS = Path(__file__).parents[2] / "benchmarks" / "models"
GIB = 1 << 30
WINDOW = 131_072
VLLM_STEP = 2048  # tokens a step in the logged runs
OUTPUT = 200  # tokens: the first sequence still runs when the last one is as long


def groups_of(name: str, folds: bool) -> tuple[tuple[KvGroup, ...], int]:
    config = DummyCheckpoint.open(MODELS / f"{name}.json").config
    facts = registry.find(config).read(Raw(config))
    layers = [
        LayerKv(
            index if layer.owner is None else layer.owner, layer.kv_heads, layer.head_dim, layer.window, folds and layer.k_eq_v
        )
        for index, layer in enumerate(facts.layers)
    ]
    return group_layers(layers, 2, 16)


@pytest.mark.parametrize(("name", "gib", "printed"), [("gemma-4-31b", 15.18, 1.23), ("gemma-4-26b-a4b", 21.5, 6.96)])
def test_k_equal_to_v_holds_nearly_twice_what_vllm_printed(name: str, gib: float, printed: float) -> None:
    """The figures: kv_memory.md, runs "31B bf16" and "26B bf16 eager" of vLLM 0.19.0 on an A100."""
    groups, page_bytes = groups_of(name, folds=True)
    held = concurrency(int(gib * GIB) // page_bytes, WINDOW, VLLM_STEP, groups)
    assert held >= 1.8 * printed
    unfolded, page_bytes = groups_of(name, folds=False)
    assert concurrency(int(gib * GIB) // page_bytes, WINDOW, VLLM_STEP, unfolded) >= printed


def most_at_once(groups: tuple[KvGroup, ...], num_pages: int, count: int, tokens: int, step: int) -> tuple[int, int]:
    """How many of `count` equal sequences run at once at full length, and the most pages that are ever held."""
    scheduler = Scheduler(groups, num_pages, count, step, tokens, prefix_cache=False)
    for index in range(count):
        scheduler.add(Generate(str(index), [1] * (tokens - OUTPUT), Sampling(max_tokens=OUTPUT)))
    held = most = 0
    while (plan := scheduler.schedule()) is not None:
        held = max(held, scheduler.stats().pages_active)
        most = max(most, sum(run.start + run.count >= tokens - OUTPUT for run in plan.run))
        scheduler.apply(StepResult(plan.step, tuple(Sampled(run.row, 5) for run in plan.run if run.sample)))
        if scheduler.stats().preemptions:
            return 0, held
    scheduler.check()
    return most, held


@pytest.mark.parametrize(("name", "count", "tokens"), [("gemma-4-31b", 2, 20_000), ("gemma-4-26b-a4b", 3, 9_000)])
def test_the_scheduler_holds_what_the_arithmetic_says(name: str, count: int, tokens: int) -> None:
    groups, page_bytes = groups_of(name, folds=True)
    pages = together_pages(count, tokens, VLLM_STEP, groups) + 1
    assert count <= concurrency(pages, tokens, VLLM_STEP, groups) < count + 1 / 2
    running, held = most_at_once(groups, pages, count, tokens, VLLM_STEP)
    assert running == count
    assert held <= pages - 1
    assert most_at_once(groups, pages - 4, count, tokens, VLLM_STEP)[0] == count - 1
    assert sum(group.bytes_per_token * group.page_tokens for group in groups) <= len(groups) * page_bytes


shapes = st.tuples(st.none() | st.integers(1, 40), st.integers(1, 9))  # window, tokens a page


@settings(max_examples=40)
@given(st.lists(shapes, min_size=1, max_size=3), st.integers(2, 60), st.integers(1, 30), st.integers(1, 4))
def test_so_many_fit_and_no_page_is_too_much(shapes: list[tuple[int | None, int]], tokens: int, step: int, count: int) -> None:
    groups = tuple(KvGroup(str(index), (index,), 1, 1, window, 2, page) for index, (window, page) in enumerate(shapes))
    pages = together_pages(count, tokens, step, groups) + 1
    assert int(concurrency(pages, tokens, step, groups)) == count
    assert int(concurrency(pages - 1, tokens, step, groups)) == count - 1
    assert together_pages(1, tokens, step, groups) == sequence_pages(tokens, step, groups)
