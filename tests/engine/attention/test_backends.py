"""Every attention backend against the plain reference, on random page tables, batches and layer facts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.attention.choose import choose_backend
from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.sdpa import SdpaAttention
from tokenwell.engine.attention.spec import AttentionSpec
from tokenwell.engine.run import batch as batches
from tokenwell.engine.run.kv import KvPool
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.tables import PageTables
from tokenwell.engine.schedule.plan import RunRow
from tokenwell.wire.cache import LayerKv, group_layers
from tokenwell.wire.sampling import Sampling

CPU = torch.device("cpu")

runs = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), min_size=1, max_size=6)  # (start, count)


def build(
    rows: list[tuple[int, int]], kv: LayerKv, page_tokens: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[batches.Batch, KvPool]:
    """A batch whose rows own shuffled pages full of random keys and values."""
    torch.manual_seed(seed)
    groups, page_bytes = group_layers([kv], dtype.itemsize, page_tokens)
    needs = [-(-(start + count) // page_tokens) for start, count in rows]
    pool = KvPool(groups, page_bytes, sum(needs) + 1, dtype, CPU)
    pool.pages.view(dtype).normal_()
    pages = (torch.randperm(sum(needs)) + 1).tolist()
    plan = [RunRow(index, start, count, ((),), True) for index, (start, count) in enumerate(rows)]
    tables = PageTables(groups, len(rows), max(start + count for start, count in rows), CPU)
    state = {}
    for index, need in enumerate(needs):
        state[index] = Row(index, [7] * (rows[index][0] + rows[index][1]), 1, Sampling())
        tables.place(index, [pages[:need]])
        pages = pages[need:]
    work = [batches.Work(state[run.row], run.start, run.count, 1) for run in batches.order(plan)]
    groups_of = (batches.GroupBatch(page_tokens, tables.tables[0]),)
    last = torch.zeros(len(rows) + 1, dtype=torch.int64)
    return batches.build(work, groups_of, [pool.caches[0]], tables, last), pool


@settings(max_examples=120, deadline=None)
@given(
    rows=runs,
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (5, 1)]),
    head_dim=st.sampled_from([8, 16, 20]),
    page_tokens=st.integers(1, 9),
    window=st.sampled_from([None, 1, 5, 16]),
    sinks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_sdpa_agrees_with_the_reference(
    rows: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    page_tokens: int,
    window: int | None,
    sinks: bool,
    seed: int,
) -> None:
    batch, _ = build(rows, LayerKv(0, heads[1], head_dim, window), page_tokens, seed)
    spec = AttentionSpec(heads[0], heads[1], head_dim, head_dim**-0.5, torch.float32, window, sinks=sinks)
    assert SdpaAttention().reason_not(spec, CPU) is None
    q = torch.randn(len(batch.ids), heads[0], head_dim)
    logit = torch.randn(heads[0]) if sinks else None
    expected = ReferenceAttention().attend(spec, q, batch.caches[0], batch, 0, logit)
    actual = SdpaAttention().attend(spec, q, batch.caches[0], batch, 0, logit)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_the_reference_is_plain_attention() -> None:
    """Against the textbook formula on one row without pages, window, caps and sinks."""
    batch, pool = build([(0, 7)], LayerKv(0, 2, 8, None), 16, 3)
    q = torch.randn(7, 4, 8)
    spec = AttentionSpec(4, 2, 8, 0.5)
    page = batch.groups[0].table[batch.slots[0], 0]
    k, v = pool.caches[0].k[page, :7], pool.caches[0].v[page, :7]
    expected = torch.empty_like(q)
    for head in range(4):
        scores = (q[:, head] @ k[:, head // 2].T * 0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        expected[:, head] = scores.softmax(-1) @ v[:, head // 2]
    torch.testing.assert_close(ReferenceAttention().attend(spec, q, batch.caches[0], batch, 0, None), expected)


@settings(max_examples=60, deadline=None)
@given(
    rows=runs,
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (5, 1)]),
    head_dim=st.sampled_from([32, 64]),
    page_tokens=st.integers(1, 9),
    window=st.sampled_from([None, 1, 5, 16]),
    sinks=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_cpu_kernel_agrees_with_the_reference(
    rows: list[tuple[int, int]],
    heads: tuple[int, int],
    head_dim: int,
    page_tokens: int,
    window: int | None,
    sinks: bool,
    seed: int,
) -> None:
    batch, _ = build(rows, LayerKv(0, heads[1], head_dim, window), page_tokens, seed, torch.bfloat16)
    spec = AttentionSpec(heads[0], heads[1], head_dim, head_dim**-0.5, torch.bfloat16, window, sinks=sinks)
    # Where the kernel has a reason against this machine, torch's attention is what the engine takes.
    backend = choose_backend(spec, CPU)[0]
    assert not isinstance(backend, ReferenceAttention)
    q = torch.randn(len(batch.ids), heads[0], head_dim).bfloat16()
    logit = torch.randn(heads[0]).bfloat16() if sinks else None
    expected = ReferenceAttention().attend(spec, q, batch.caches[0], batch, 0, logit)
    actual = backend.attend(spec, q, batch.caches[0], batch, 0, logit)
    torch.testing.assert_close(actual.float(), expected.float(), atol=3e-2, rtol=2e-2)


@pytest.mark.parametrize(("cap", "name"), [(None, "sdpa"), (30.0, "reference")])
def test_the_choice_says_why(cap: float | None, name: str) -> None:
    backend, choice = choose_backend(AttentionSpec(4, 2, 8, 1.0, softcap=cap), CPU)
    assert backend.name == name == choice.chosen
    if cap is None:
        first = "not cpu kernel: only bfloat16 on the CPU has a kernel, not float32 on cpu"
        assert choice.reason == f"{first}; not triton: Triton kernels are for accelerators, not for a cpu"
    else:
        reasons = choice.reason.split("; ")
        assert reasons[0] == "not cpu kernel: it cannot cap scores"
        assert reasons[-1] == "not sdpa: it cannot cap scores"


def test_a_cap_bounds_the_scores() -> None:
    """With a tiny cap all visible keys weigh nearly the same."""
    batch, pool = build([(5, 1)], LayerKv(0, 1, 8, None), 16, 4)
    q = 100 * torch.randn(1, 1, 8)
    out = ReferenceAttention().attend(AttentionSpec(1, 1, 8, 1.0, softcap=1e-4), q, batch.caches[0], batch, 0, None)
    page = batch.groups[0].table[batch.slots[0], 0]
    torch.testing.assert_close(out[0, 0], pool.caches[0].v[page, :6, 0].mean(0), atol=1e-3, rtol=1e-3)
