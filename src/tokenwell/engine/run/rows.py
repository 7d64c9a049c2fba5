"""What a rank remembers of the sequences that hold a slot. Changed only by StepPlans, so it is the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tokenwell.engine.run.mask import Constraint
from tokenwell.engine.run.penalties import Counts
from tokenwell.engine.schedule.plan import AddRow, RunRow
from tokenwell.wire.sampling import Sampling


class PageTable:
    """Page ids of one row in one group, by position // page_tokens; entries behind a window are stale."""

    __slots__ = ("_count", "_pages")

    def __init__(self, pages: Sequence[int]) -> None:
        self._count = len(pages)
        self._pages = np.zeros(max(16, 2 * len(pages)), dtype=np.int64)
        self._pages[: self._count] = pages

    def extend(self, pages: Sequence[int]) -> None:
        """Append pages."""
        end = self._count + len(pages)
        if end > len(self._pages):
            grown = np.zeros(2 * end, dtype=np.int64)
            grown[: self._count] = self._pages[: self._count]
            self._pages = grown
        self._pages[self._count : end] = pages
        self._count = end

    @property
    def pages(self) -> np.ndarray:
        """[pages] int64, a view."""
        return self._pages[: self._count]


@dataclass(slots=True)
class Row:
    """One sequence in its slot."""

    tokens: list[int]  # prompt and output so far
    prompt_tokens: int
    sampling: Sampling
    tables: tuple[PageTable, ...]  # one a group
    counts: Counts | None = field(default=None)  # token counts, only for rows whose penalties need them
    constraint: Constraint | None = field(default=None)  # only for rows with a grammar

    @classmethod
    def from_plan(cls, added: AddRow) -> Row:
        """The state of a row that a plan adds."""
        return cls(list(added.tokens), added.prompt_tokens, added.sampling, tuple(PageTable(pages) for pages in added.pages))

    def extend(self, run: RunRow) -> None:
        """Append the pages that a step brings."""
        for table, pages in zip(self.tables, run.pages, strict=True):
            if pages:
                table.extend(pages)
