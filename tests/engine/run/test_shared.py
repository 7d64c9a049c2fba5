"""Which rows share pages, and recorded steps in which attention reads those once: the same tokens as without."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import Tiny
from tests.engine.run.recorded import NAMES, Repeated, answers

from tokenwell.engine import load as loading
from tokenwell.engine.load import Loaded, load
from tokenwell.engine.run import spare
from tokenwell.engine.run.batch import Work
from tokenwell.engine.run.rows import Row
from tokenwell.engine.run.shared import SETS, SharedPages, best_set, shared_pages
from tokenwell.engine.run.tables import PageTables
from tokenwell.engine.run.worker import Beside
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

SIZE = 4
FULL = KvGroup("full", (0, 1), 1, 16, None, 128, SIZE)
SLIDING = KvGroup("sliding-9", (2,), 1, 16, 9, 64, 2 * SIZE)
CPU = torch.device("cpu")


def tables_of(rows: list[list[int]], slots: list[int]) -> PageTables:
    tables = PageTables((SLIDING, FULL), max(slots) + 1, 64 * SIZE, CPU)
    for slot, pages in zip(slots, rows, strict=True):
        tables.place(slot, [[], pages])
    return tables


def work_of(slots: list[int], starts: list[int]) -> list[Work]:
    """Rows of one token each, behind so many others."""
    return [Work(Row(slot, [], 0, Sampling()), start, 1, 1) for slot, start in zip(slots, starts, strict=True)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(1, 2), max_size=5), st.integers(0, 2 * SIZE)), min_size=2, max_size=9),
    st.integers(1, 6 * SIZE),
    st.randoms(use_true_random=False),
)
def test_what_is_told_is_shared(rows: list[tuple[list[int], int]], worth: int, chance: Any) -> None:
    """Pages are numbers that stand for a prefix: the same number at the same place after the same numbers before."""
    paths = [[sum(page * 3**place for place, page in enumerate(path[: end + 1])) for end in range(len(path))] for path, _ in rows]
    starts = [len(path) * SIZE + extra for path, extra in rows]
    own = iter(range(1000, 2000))  # what a row has alone, the page that it writes to included
    pages = [path + [next(own) for _ in range(extra // SIZE + 1)] for path, (_, extra) in zip(paths, rows, strict=True)]
    slots = chance.sample(range(12), len(rows))
    found = SharedPages(tables_of(pages, slots), 1, SIZE, worth).find(work_of(slots, starts))
    alike = {first: len(list(some)) for first, some in groupby(sorted(path[0] for path in paths if path))}
    if found is None:
        assert all((count - 1) * SIZE < worth for count in alike.values()), "rows that share a page are a set of their own"
        return
    keys, members, sets = (array.tolist() for array in found)
    seen: set[int] = set()
    for first, count, shared, slot in sets[: len(sets)]:
        some = members[first : first + count]
        assert not seen & set(some)
        seen |= set(some)
        if not count:
            continue
        assert (count - 1) * shared >= worth
        assert slot in [slots[row] for row in some]
        for row in some:
            assert keys[row] == shared <= starts[row]
            assert pages[row][: shared // SIZE] == pages[some[0]][: shared // SIZE]
    assert all(keys[row] == 0 for row in range(len(rows)) if row not in seen)


def test_the_set_that_saves_most_is_taken() -> None:
    table = np.array([[1, 2, 3, 4], [1, 9, 9, 9], [1, 2, 3, 5], [1, 2, 6, 7]])
    rows, pages = best_set(table, np.array([4, 4, 4, 4]))
    assert (rows.tolist(), pages) == ([0, 2, 3], 2)  # 4 pages need not be read; with the second row it would be 3
    assert best_set(table[:, 1:2], np.array([1, 1, 0, 1]))[0].tolist() == [0, 3]


def test_rows_are_looked_at_again_when_one_has_come_or_gone() -> None:
    tables = tables_of([[1, 2, 3], [1, 2, 4], [8, 9]], [0, 1, 2])
    pages = SharedPages(tables, 1, SIZE, 1)
    first = pages.find(work_of([0, 1, 2], [9, 9, 5]))
    assert first is not None and first[0].tolist() == [8, 8, 0]
    tables.append(1, [[], [11]])
    assert pages.find(work_of([0, 1, 2], [13, 13, 9])) is first
    tables.place(2, [[], [1, 2, 7]])
    after = pages.find(work_of([0, 1, 2], [13, 13, 9]))
    assert after is not None and after[0].tolist() == [8, 8, 8]
    assert pages.find(work_of([0], [13])) is None


def test_more_sets_than_there_is_room_for_are_served_row_by_row() -> None:
    rows = [[index // 2 + 1, 100 + index] for index in range(2 * SETS + 4)]
    slots = list(range(len(rows)))
    found = SharedPages(tables_of(rows, slots), 1, SIZE, 1).find(work_of(slots, [SIZE + 1] * len(rows)))
    assert found is not None
    assert np.count_nonzero(found[0]) == 2 * SETS


def test_only_one_group_that_sees_all_keys_is_looked_at() -> None:
    tables = tables_of([[1]], [0])
    assert shared_pages((SLIDING,), tables, 1 << 20) is None
    assert shared_pages((FULL, FULL), tables, 1 << 20) is None
    pages = shared_pages((SLIDING, FULL), tables, 1 << 20)
    assert pages is not None and (pages.group, pages._worth) == (1, (1 << 20) // 64)


# ---------------------------------------------------------------- recorded steps


@pytest.fixture
def sharing(recording: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device's name, on which whatever is shared is worth it."""
    if recording == "cpu":
        monkeypatch.setattr(spare, "Recording", Repeated)
    monkeypatch.setattr(loading, "_recorded_beside", lambda device, step_tokens: Beside(0, 1))
    return recording


def requests(count: int) -> list[Generate]:
    generator = torch.Generator().manual_seed(5)
    known = torch.randint(0, 380, (70,), generator=generator).tolist()
    return [
        Generate(str(index), [*known[: 70 - 16 * (index % 3)], 9 + index, 7], Sampling(max_tokens=9 + index))
        for index in range(count)
    ]


def loaded_with(folder: object, device: str, **more: Any) -> Loaded:
    given: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 5, "max_model_len": 160, "kv_cache_gib": 0.02}
    return load(EngineSpec(str(folder), "", "", device=device, **(given | more)))


@pytest.mark.parametrize("name", NAMES)
def test_shared_pages_change_no_token(name: str, tiny: Tiny, sharing: str) -> None:
    plain = answers(loaded_with(tiny(name), sharing, graphs=False), requests(9))
    loaded = loaded_with(tiny(name), sharing)
    graphs = loaded.worker.shared_graphs
    assert graphs is not None
    assert answers(loaded, requests(9)) == plain
    assert graphs.made
    while loaded.worker.prepare():
        pass
    assert sorted(graphs.made) == [size for size in loaded.worker.graphs.sizes if size > 1]  # type: ignore[union-attr]
    loaded.worker.forget_rows()
    assert answers(loaded, requests(9)) == plain


def test_what_cannot_be_recorded_is_served_row_by_row(tiny: Tiny, sharing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise RuntimeError("not during capture")

    plain = answers(loaded_with(tiny("qwen3"), sharing, graphs=False), requests(6))
    monkeypatch.setattr(spare, "Recording", refuse)
    loaded = loaded_with(tiny("qwen3"), sharing)
    assert answers(loaded, requests(6)) == plain
    assert loaded.worker.shared_graphs is None
    assert loaded.worker.graphs is not None
