"""Batch tensors against a slow reference that walks token by token."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.run import batch as batches
from tokenwell.engine.run.rows import PageTable, Row
from tokenwell.engine.schedule.plan import AddRow, RunRow
from tokenwell.wire.sampling import Sampling

CPU = torch.device("cpu")


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[batches.Work], list[int]]:
    """Rows with random tokens, page tables and shares of a step."""
    page_tokens = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    state, runs, keeps = {}, [], {}
    for slot in range(draw(st.integers(1, 5))):
        start, count = draw(st.integers(0, 25)), draw(st.integers(1, 12))
        tokens = draw(st.lists(st.integers(0, 99), min_size=start + count, max_size=start + count + 3))
        tables = []
        for size in page_tokens:
            need = -(-(start + count) // size)
            tables.append(PageTable(draw(st.lists(st.integers(1, 50), min_size=need, max_size=need))))
        state[slot] = Row(tokens, 1, Sampling(), tuple(tables))
        runs.append(RunRow(slot, start, count, tuple(() for _ in page_tokens), True))
        keeps[slot] = draw(st.integers(0, count))
    work = [batches.Work(state[run.row], run.start, run.count, keeps[run.row]) for run in batches.order(runs)]
    return work, page_tokens


@settings(max_examples=200, deadline=None)
@given(steps())
def test_every_tensor_agrees_with_a_walk_over_the_tokens(step: tuple[list[batches.Work], list[int]]) -> None:
    work, page_tokens = step
    batch = batches.build(work, page_tokens, [], CPU)
    ids, positions, keep, slots = [], [], [], [[] for _ in page_tokens]
    for item in work:
        for position in range(item.start, item.start + item.count):
            if position >= item.start + item.count - item.keep:
                keep.append(len(ids))
            ids.append(item.row.tokens[position])
            positions.append(position)
            for group, size in enumerate(page_tokens):
                slots[group].append((int(item.row.tables[group].pages[position // size]), position % size))
    assert batch.ids.tolist() == ids
    assert batch.positions.tolist() == positions
    assert batch.keep.tolist() == keep
    assert batch.keep_all == (len(keep) == len(ids))
    for group, expected in enumerate(slots):
        pages, offsets = batch.groups[group].slots
        assert list(zip(pages.tolist(), offsets.tolist(), strict=True)) == expected
        for row, item in enumerate(work):
            used = item.row.tables[group].pages[: -(-(item.start + item.count) // page_tokens[group])]
            assert batch.groups[group].table[row, : len(used)].tolist() == used.tolist()
    singles = [item.count == 1 for item in work]
    assert singles == sorted(singles, reverse=True), "single tokens come first"


@settings(max_examples=100, deadline=None)
@given(steps())
def test_the_kept_batch_is_the_tail_of_each_row(step: tuple[list[batches.Work], list[int]]) -> None:
    work, page_tokens = step
    batch = batches.build(work, page_tokens, [], CPU)
    kept = batch.kept()
    assert kept.ids.tolist() == batch.ids[batch.keep].tolist()
    assert kept.positions.tolist() == batch.positions[batch.keep].tolist()
    assert kept.kept() is kept
    if batch.keep_all:
        return
    wanted = [item for item in work if item.keep]
    assert [(span.start, span.count) for span in kept.spans] == [
        (item.start + item.count - item.keep, item.keep) for item in wanted
    ]
    for group in range(len(page_tokens)):
        assert len(kept.groups[group].table) == len(wanted)


def test_a_row_follows_its_plans() -> None:
    row = Row.from_plan(AddRow(3, [1, 2, 3], 2, Sampling(), ((4, 5), ())))
    for page in range(100):
        row.extend(RunRow(3, page, 1, ((), (page,)), False))
    assert row.tables[0].pages.tolist() == [4, 5]
    assert row.tables[1].pages.tolist() == list(range(100))
    assert (row.tokens, row.prompt_tokens) == ([1, 2, 3], 2)
