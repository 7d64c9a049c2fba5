"""The kernels of paged attention against the plain reference, on random page tables, batches, layer facts and dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.kernels.interpreter import complete

from tokenwell.engine.attention import dense
from tokenwell.engine.attention.reference import ReferenceAttention, keys_and_values
from tokenwell.engine.attention.spec import FP8, AttentionSpec, Fold, LayerCache, Shared, fold_for
from tokenwell.engine.attention.triton import TritonAttention
from tokenwell.engine.kernels import paged_shared
from tokenwell.engine.kernels.paged_decode import Cut, cut_for, paged_decode
from tokenwell.engine.kernels.paged_gather import PIECE, paged_gather
from tokenwell.engine.run.batch import Batch, GroupBatch, Span

if not torch.cuda.is_available():
    complete()


@dataclass(frozen=True)
class Case:
    """Facts of a layer; rows are (tokens in the cache before the step, tokens of the step)."""

    rows: tuple[tuple[int, int], ...]
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    page_tokens: int = 5
    window: int | None = None
    softcap: float | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32
    kv_dtype: torch.dtype | None = None
    turning: int = 0  # pairs that turn where keys are folded into values; 0: they are not


def make(
    case: Case, device: torch.device, seed: int
) -> tuple[AttentionSpec, torch.Tensor, LayerCache, Batch, torch.Tensor | None]:
    """A layer, its queries and cache, and a batch whose rows own shuffled pages full of random keys and values."""
    torch.manual_seed(seed)
    rows = sorted(case.rows, key=lambda row: row[1] > 1)
    size = case.page_tokens
    needs = [-(-(start + count) // size) for start, count in rows]
    free = (torch.randperm(sum(needs)) + 1).tolist()
    table = torch.zeros(len(rows) + 2, max(needs) + 1, dtype=torch.int32)
    slots = torch.randperm(len(rows) + 2)[: len(rows)]
    for slot, need in zip(slots.tolist(), needs, strict=True):
        table[slot, :need] = torch.tensor(free[:need])
        free = free[need:]
    kv_dtype = case.kv_dtype or case.dtype
    # Two layers share a page, so strides are not those of a dense tensor; this is the second one.
    pool = torch.randn(sum(needs) + 1, 2, 2, size, case.kv_heads, case.head_dim, device=device).to(kv_dtype)
    fold: Fold | None = None
    if case.turning:
        weight = (1 + 0.1 * torch.randn(case.head_dim, device=device)).to(case.dtype)
        frequencies = torch.rand(case.turning, device=device)
        fold = fold_for(weight, frequencies, 1.0, case.head_dim // 2, max(needs) * size)
    scales = (0.5, 2.0) if kv_dtype == FP8 else (1.0, 1.0)
    cache = LayerCache(pool[:, 1, 1] if fold else pool[:, 1, 0], pool[:, 1, 1], *scales, fold)
    counts = [count for _, count in rows]
    lengths = torch.tensor([start + count for start, count in rows], dtype=torch.int32)
    starts = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)
    tokens = sum(counts)
    places = zip(slots.tolist(), starts.tolist(), rows, strict=False)
    spans = tuple(Span(slot, offset, *row) for slot, offset, row in places)
    nothing = torch.zeros(tokens, dtype=torch.int64, device=device)
    positions = torch.cat([torch.arange(start, start + count) for start, count in rows]).to(device)
    token_rows = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)).to(torch.int32).to(device)
    batch = Batch(
        ids=nothing, positions=positions, slots=slots.to(torch.int32).to(device), starts=starts.to(device),
        lengths=lengths.to(device), token_rows=token_rows, singles=counts.count(1), longest=int(lengths.max()),
        most=max(counts), spans=spans, groups=(GroupBatch(size, table.to(device)),), caches=[cache], keep=nothing, keep_all=True,
    )  # fmt: skip
    spec = AttentionSpec(
        case.heads, case.kv_heads, case.head_dim, case.head_dim**-0.5, case.dtype, case.window, case.softcap, case.sinks,
        kv_dtype, fold is not None,
    )  # fmt: skip
    q = torch.randn(tokens, case.heads, case.head_dim, device=device).to(case.dtype)
    sinks = torch.randn(case.heads, device=device).to(case.dtype) if case.sinks else None
    return spec, q, cache, batch, sinks


def check(case: Case, device: torch.device, seed: int = 0, host: bool = True, scratch: int = 1 << 20) -> None:
    """`host`: the batch says on the host, too, where its rows lie, and keys of rows with several tokens are gathered,
    those of as many heads at a time as `scratch` bytes hold.
    """
    spec, q, cache, batch, sinks = make(case, device, seed)
    batch.spans = batch.spans if host else ()
    expected = ReferenceAttention().attend(spec, q.float(), cache, batch, 0, sinks)
    with patch.multiple(dense, _LEAST_PAIRS=1, _SCRATCH_BYTES=scratch):  # any row is worth gathering
        actual = TritonAttention().attend(spec, q, cache, batch, 0, sinks)
    assert actual.dtype == q.dtype
    close(actual, expected)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}[actual.dtype]
    error = float((actual.float() - expected).norm() / expected.norm())
    assert error < tolerance, error
    torch.testing.assert_close(actual.float(), expected, atol=6 * tolerance, rtol=6 * tolerance)


row = st.tuples(st.sampled_from([0, 0, 1, 7, 30, 60]), st.sampled_from([1, 1, 2, 3, 9]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(row, min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (7, 1)]),
    head_dim=st.sampled_from([16, 24]),
    page_tokens=st.sampled_from([1, 3, 16]),
    window=st.sampled_from([None, 1, 7, 32]),
    softcap=st.sampled_from([None, None, 2.0]),
    sinks=st.booleans(),
    dtype=st.sampled_from([(torch.float32, None), (torch.bfloat16, None), (torch.float16, FP8), (torch.bfloat16, FP8)]),
    turning=st.sampled_from([0, 0, 4]),
    host=st.booleans(),
    scratch=st.sampled_from([1, 1 << 20]),
    seed=st.integers(0, 1000),
)
def test_the_kernels_agree_with_the_reference(
    gpu: torch.device, rows: list[tuple[int, int]], heads: tuple[int, int], head_dim: int, page_tokens: int, window: int | None,
    softcap: float | None, sinks: bool, dtype: tuple[torch.dtype, torch.dtype | None], turning: int, host: bool,
    scratch: int, seed: int,
) -> None:  # fmt: skip
    case = Case(tuple(rows), *heads, head_dim, page_tokens, window, softcap, sinks, *dtype, turning)
    check(case, gpu, seed, host, scratch)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sets=st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=4), max_size=2),  # of each row, what it knows beside its set
    keys=st.tuples(st.integers(1, 9), st.integers(1, 9)),  # pages of a set
    alone=st.lists(st.integers(0, 70), max_size=2),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 2), (7, 1)]),
    head_dim=st.sampled_from([16, 24]),
    softcap=st.sampled_from([None, None, 2.0]),
    sinks=st.booleans(),
    dtype=st.sampled_from([(torch.float32, None), (torch.bfloat16, None), (torch.float16, FP8), (torch.bfloat16, FP8)]),
    turning=st.sampled_from([0, 4]),
    splits=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
)
def test_keys_that_rows_share_are_read_for_all_of_them(
    gpu: torch.device, sets: list[list[int]], keys: tuple[int, int], alone: list[int], heads: tuple[int, int], head_dim: int,
    softcap: float | None, sinks: bool, dtype: tuple[torch.dtype, torch.dtype | None], turning: int, splits: int, seed: int,
) -> None:  # fmt: skip
    size, rows, of = 5, [], []
    for index, members in enumerate(sets):
        rows += [(keys[index] * size + extra, 1) for extra in members]
        of += [index] * len(members)
    rows += [(start, 1) for start in alone] or [(7, 1)]
    of += [-1] * (len(rows) - len(of))
    case = Case(tuple(rows), *heads, head_dim, size, None, softcap, sinks, *dtype, turning)
    spec, q, cache, batch, chosen = make(case, gpu, seed)
    group, slots = batch.groups[0], batch.slots.long()
    table = group.table
    places = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()  # the sets' rows, in some order
    members = [place for index in range(len(sets)) for place in places if of[place] == index]
    counts = torch.zeros(3, 4, dtype=torch.int32)
    shared = torch.zeros(len(rows), dtype=torch.int32)
    for index in range(len(sets)):
        ones = [place for place in members if of[place] == index]
        table[slots[ones], : keys[index]] = table[slots[ones[0]], : keys[index]]
        counts[index] = torch.tensor([members.index(ones[0]), len(ones), keys[index] * size, slots[ones[-1]]])
        shared[ones] = keys[index] * size
    padded = torch.tensor([*members, *[0] * (len(rows) - len(members))], dtype=torch.int32)
    expected = ReferenceAttention().attend(spec, q.float(), cache, batch, 0, chosen)
    out = torch.full_like(q, torch.nan)
    with patch.object(paged_shared, "MOST_SPLITS", splits):
        paged_decode(
            spec, q, cache, table, size, batch.slots, batch.lengths, batch.longest, chosen, out,
            shared=Shared(0, shared.to(gpu), padded.to(gpu), counts.to(gpu)),
        )  # fmt: skip
    close(out, expected)


def test_splits_are_merged(gpu: torch.device) -> None:
    """Also where a row is worth fewer splits than there are."""
    case = Case(((70, 1), (3, 1), (129, 1)), sinks=True)
    spec, q, cache, batch, sinks = make(case, gpu, 1)
    expected = ReferenceAttention().attend(spec, q, cache, batch, 0, sinks)
    group = batch.groups[0]
    for splits, usual in ((2, 2), (5, 1), (16, 16)):
        out = torch.full_like(q, torch.nan)
        paged_decode(
            spec, q, cache, group.table, group.page_tokens, batch.slots, batch.lengths, batch.longest, sinks, out,
            Cut(splits, 16, 16, 4, 2, usual),
        )  # fmt: skip
        close(out, expected)


def test_rows_of_a_graph_may_be_shorter_than_its_bound(gpu: torch.device) -> None:
    """Splits are chosen for the longest possible row; what the rows really have is known on the device alone."""
    case = Case(((4, 1), (90, 1)), window=40)
    spec, q, cache, batch, sinks = make(case, gpu, 2)
    expected = ReferenceAttention().attend(spec, q, cache, batch, 0, sinks)
    batch.longest = 1 << 20
    batch.spans = ()
    close(TritonAttention().attend(spec, q, cache, batch, 0, sinks), expected)


@pytest.mark.parametrize("case", [
    Case(((3, 1), (0, 7), (20, 9)), head_dim=24, dtype=torch.bfloat16),
    Case(((3, 1), (0, 7), (20, 9)), dtype=torch.bfloat16, kv_dtype=FP8),
    Case(((3, 1), (0, 7), (20, 9)), turning=4),
])  # fmt: skip
def test_keys_and_values_are_gathered(gpu: torch.device, case: Case) -> None:
    _, q, cache, batch, _ = make(case, gpu, 3)
    group = batch.groups[0]
    rows = [(span.slot, 0, max(0, span.start - 2), span.length) for span in batch.spans]
    pieces = torch.tensor(rows, dtype=torch.int32, device=gpu)
    k, v = paged_gather(cache, group.table, group.page_tokens, pieces, q.dtype)
    for row, (slot, _, oldest, length) in enumerate(rows):
        pages = group.table[slot, : -(-length // group.page_tokens)]
        keys, values = keys_and_values(cache, pages, torch.arange(length, device=gpu))
        for whole, expected in ((k, keys), (v, values)):
            gathered = whole[row * PIECE : (row + 1) * PIECE]
            close(gathered[oldest:length, :, : case.head_dim], expected[oldest:])
            assert not gathered[:oldest].any() and not gathered[length:].any() and not gathered[..., case.head_dim :].any()


def test_few_rows_get_more_splits_than_many() -> None:
    def splits(rows: int, visible: int) -> int:
        return cut_for(rows, 8, 128, 2, visible, 132).splits

    assert splits(1, 64) == 1
    assert splits(1, 131072) > splits(8, 131072) > splits(64, 1024) == 1
    assert splits(64, 131072) == 4  # so that the longest row does not end long after the others


LARGE = [
    Case(((1023, 1),), 32, 8, 128, 16, dtype=torch.bfloat16),
    Case(((5, 1), (1023, 1), (9000, 1), (0, 700), (3000, 129)), 32, 8, 128, 16, dtype=torch.bfloat16),
    Case(((5, 1), (1023, 1), (9000, 1), (0, 700), (300, 129)), 64, 8, 64, 33, 128, sinks=True, dtype=torch.bfloat16),
    Case(((500, 1), (2023, 1), (0, 700), (3000, 129)), 16, 8, 256, 17, 1024, dtype=torch.bfloat16),
    Case(((500, 1), (2023, 1), (0, 700), (3000, 129)), 16, 2, 512, 21, dtype=torch.bfloat16, turning=64),
    Case(((500, 1), (2023, 1), (0, 700), (3000, 129)), 16, 2, 512, 21, dtype=torch.bfloat16, kv_dtype=FP8, turning=64),
    Case(((500, 1), (2023, 1), (0, 700), (3000, 129)), 8, 2, 512, 21, dtype=torch.bfloat16, kv_dtype=FP8),
    Case(((500, 1), (2023, 1), (0, 700), (3000, 129)), 8, 2, 256, 42, 512, dtype=torch.bfloat16, kv_dtype=FP8),
    Case(((500, 1), (2023, 1), (0, 300)), 8, 8, 80, 16, softcap=30.0, dtype=torch.float16),
    Case(((500, 1), (2023, 1), (0, 300)), 14, 2, 96, 16, dtype=torch.float16),
    Case(((500, 1), (2023, 1), (0, 300)), 14, 2, 64, 16, dtype=torch.float32),
    Case(((500, 1), (2023, 1), (0, 300)), 32, 8, 128, 16, dtype=torch.float32),
    Case(((500, 1), (0, 100)), 16, 2, 512, 16, dtype=torch.float32, turning=64),
]


@pytest.mark.card
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_shapes_agree_with_the_reference(gpu: torch.device, case: Case) -> None:
    check(case, gpu)
