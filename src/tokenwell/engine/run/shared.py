"""Which rows of a decode step share their first pages, so that attention may read those once for all of them.

Agents of one kind begin with the same instructions and tools, and the prefix cache gives all of them the same pages. Found on the
host when rows come or go: shared pages are never written again, so nothing changes in between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenwell.engine.run.batch import Work
from tokenwell.engine.run.tables import PageTables
from tokenwell.wire.cache import KvGroup

SETS = 4  # of rows that share something, at most
_LEADERS = 4  # rows of a set that are tried as the one that others are compared with


def common_pages(table: np.ndarray, whole: np.ndarray, leader: int) -> np.ndarray:
    """How many of its first pages each row of `table` [rows, pages] has in common with `leader`, [rows].

    whole [rows]: the pages of a row that are full; others do not count.
    """
    width = int(whole[leader])
    same = table[:, :width] == table[leader, :width]
    return np.minimum(np.where(same.all(axis=1), width, same.argmin(axis=1)) if width else 0, whole)


def best_set(table: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows [members] that share their first pages and how many those are, so that the most reading is saved."""
    found, pages, most = np.empty(0, dtype=np.int64), 0, 0
    for leader in np.unique(np.linspace(0, len(table) - 1, _LEADERS).astype(np.int64)):
        common = common_pages(table, whole, leader)
        order = np.argsort(-common, kind="stable")
        saved = common[order] * np.arange(len(order))  # by the rows up to here, if they share what the last of them has
        last = int(saved.argmax())
        if saved[last] > most:
            found, pages, most = np.sort(order[: last + 1]), int(common[order[last]]), int(saved[last])
    return found, pages


class SharedPages:
    """What rows share in one KV group, told as `attention.spec.Shared` wants it."""

    def __init__(self, tables: PageTables, group: int, page_tokens: int, worth_tokens: int) -> None:
        """`worth_tokens`: that need not be read, below which sharing costs more than it saves."""
        self.group = group
        self._tables = tables
        self._page_tokens = page_tokens
        self._worth = worth_tokens
        self._seen: tuple[int, list[int]] | None = None
        self._found: list[np.ndarray] | None = None

    def arrays(self, size: int) -> list[np.ndarray]:
        """Shared keys [size], members [size] and sets [SETS, 4] of rows that share nothing, all int32."""
        return [np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32), np.zeros((SETS, 4), dtype=np.int32)]

    def find(self, work: Sequence[Work]) -> list[np.ndarray] | None:
        """As `arrays`, for the rows of `work`, one token each; None where it is not worth it."""
        seen = (self._tables.placed, [item.row.slot for item in work])
        if seen != self._seen:
            self._seen, self._found = seen, self._search(work)
        return self._found

    def _search(self, work: Sequence[Work]) -> list[np.ndarray] | None:
        slots = np.array([item.row.slot for item in work])
        whole = np.array([item.start for item in work]) // self._page_tokens
        table = self._tables.host[self.group]
        firsts = table[slots, 0]
        pages, counts = np.unique(firsts[whole > 0], return_counts=True)
        found = []
        for page in pages[counts > 1]:
            (rows,) = np.nonzero((firsts == page) & (whole > 0))
            some, shared = best_set(table[slots[rows], : int(whole[rows].max())], whole[rows])
            keys = shared * self._page_tokens
            if (len(some) - 1) * keys >= self._worth:
                found.append((rows[some], keys))
        if not found:
            return None
        keys_of, members, sets = self.arrays(len(slots))
        first = 0
        found.sort(key=lambda one: -(len(one[0]) - 1) * one[1])
        for index, (rows, keys) in enumerate(found[:SETS]):
            members[first : first + len(rows)] = rows
            keys_of[rows] = keys
            sets[index] = (first, len(rows), keys, slots[rows[0]])
            first += len(rows)
        return [keys_of, members, sets]


def shared_pages(groups: Sequence[KvGroup], tables: PageTables, worth_bytes: int) -> SharedPages | None:
    """For the one group whose layers see all keys, where there is one; `worth_bytes`: of a layer, that need not be read."""
    full = [index for index, group in enumerate(groups) if group.window is None]
    if len(full) != 1:
        return None
    group = groups[full[0]]
    return SharedPages(tables, full[0], group.page_tokens, worth_bytes * len(group.layers) // group.bytes_per_token)
