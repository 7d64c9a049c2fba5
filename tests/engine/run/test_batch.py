"""Batch tensors against a slow reference that walks token by token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.run import batch as batches
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.tables import PageTables
from tokenwell.engine.schedule.plan import AddRow, RunRow
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.sampling import Sampling

CPU = torch.device("cpu")
SLOTS = 9
LONGEST = 40


def group(page_tokens: int) -> KvGroup:
    """A group of one layer."""
    return KvGroup("full", (0,), 1, 1, None, 1, page_tokens)


@dataclass
class Made:
    """The work of a step, and the pages of each slot in each group."""

    work: list[batches.Work]
    page_tokens: list[int]
    pages: dict[int, list[list[int]]]
    tables: PageTables
    last: torch.Tensor

    def build(self) -> batches.Batch:
        """The batch of it all."""
        pairs = zip(self.page_tokens, self.tables.tables, strict=True)
        groups = tuple(batches.GroupBatch(size, table) for size, table in pairs)
        return batches.build(self.work, groups, [], self.tables, self.last)


@st.composite
def steps(draw: st.DrawFn) -> Made:
    """Rows with random tokens, page tables and shares of a step; of some decoding rows only the device knows the last token."""
    page_tokens = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    tables = PageTables([group(size) for size in page_tokens], SLOTS, LONGEST, CPU)
    state, runs, keeps, pages = {}, [], {}, {}
    for slot in draw(st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=5, unique=True)):
        start, count = draw(st.integers(0, 25)), draw(st.integers(1, 12))
        pending = count == 1 and draw(st.booleans())
        known = start + count - pending
        tokens = draw(st.lists(st.integers(0, 99), min_size=known, max_size=known if pending else known + 3))
        needs = [-(-(start + count) // size) for size in page_tokens]
        pages[slot] = [draw(st.lists(st.integers(1, 50), min_size=need, max_size=need)) for need in needs]
        tables.place(slot, pages[slot])
        state[slot] = Row(slot, tokens, 1, Sampling())
        runs.append(RunRow(slot, start, count, tuple(() for _ in page_tokens), True))
        keeps[slot] = draw(st.integers(0, count))
    work = [batches.Work(state[run.row], run.start, run.count, keeps[run.row]) for run in batches.order(runs)]
    return Made(work, page_tokens, pages, tables, 1000 + torch.arange(SLOTS + 1))


@settings(max_examples=200, deadline=None)
@given(steps())
def test_every_tensor_agrees_with_a_walk_over_the_tokens(made: Made) -> None:
    batch = made.build()
    ids, positions, keep, rows, places = [], [], [], [], [[] for _ in made.page_tokens]
    for number, item in enumerate(made.work):
        slot = item.row.slot
        for position in range(item.start, item.start + item.count):
            if position >= item.start + item.count - item.keep:
                keep.append(len(ids))
            ids.append(item.row.tokens[position] if position < len(item.row.tokens) else 1000 + slot)
            positions.append(position)
            rows.append(number)
            for index, size in enumerate(made.page_tokens):
                places[index].append((made.pages[slot][index][position // size], position % size))
    assert batch.ids.tolist() == ids
    assert batch.positions.tolist() == positions
    assert batch.token_rows.tolist() == rows
    assert batch.slots.tolist() == [item.row.slot for item in made.work]
    assert batch.lengths.tolist() == [item.start + item.count for item in made.work]
    assert (batch.longest, batch.most) == (max(batch.lengths.tolist()), max(item.count for item in made.work))
    assert [b - a for a, b in zip(batch.starts.tolist(), batch.starts.tolist()[1:], strict=False)] == [i.count for i in made.work]
    assert batch.keep.tolist() == keep
    assert batch.keep_all == (len(keep) == len(ids))
    counts = [item.count for item in made.work]
    assert all(count == 1 for count in counts[: batch.singles]) and 1 not in counts[batch.singles :]
    for index, expected in enumerate(places):
        for _ in range(2):  # what the CPU prepares, then what any device computes
            pages, offsets = batch.places(index)
            assert list(zip(pages.tolist(), offsets.tolist(), strict=True)) == expected
            batch.scratch.clear()


@settings(max_examples=100, deadline=None)
@given(steps())
def test_the_kept_batch_is_the_tail_of_each_row(made: Made) -> None:
    batch = made.build()
    kept = batch.kept()
    assert kept.ids.tolist() == batch.ids[batch.keep].tolist()
    assert kept.positions.tolist() == batch.positions[batch.keep].tolist()
    assert kept.kept() is kept
    if batch.keep_all:
        return
    wanted = [item for item in made.work if item.keep]
    assert [(span.start, span.count) for span in kept.spans] == [
        (item.start + item.count - item.keep, item.keep) for item in wanted
    ]
    assert kept.slots.tolist() == [item.row.slot for item in wanted]
    assert all(item.keep == 1 for item in wanted[: kept.singles]), "a row with several kept tokens is no single"


def test_a_row_and_its_tables_follow_their_plans() -> None:
    tables = PageTables([group(16), group(1)], 4, 100, CPU)
    row = Row.from_plan(AddRow(3, [1, 2, 3], 2, Sampling(), ((4, 5), ())))
    tables.place(3, ((4, 5), ()))
    for page in range(100):
        tables.append(3, ((), (page,)))
    assert tables.tables[0][3, :2].tolist() == [4, 5]
    assert tables.tables[1][3, :100].tolist() == list(range(100))
    assert (row.slot, row.tokens, row.prompt_tokens) == (3, [1, 2, 3], 2)
    tables.place(3, ((9,), (8,)))
    tables.append(3, ((10,), ()))
    assert tables.tables[0][3, :2].tolist() == [9, 10] and tables.tables[1][3, 0] == 8
    assert not tables.tables[0][[0, 1, 2, 4]].any(), "other slots, the padding slot too, keep the null page"
