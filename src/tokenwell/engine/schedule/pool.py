"""Who holds each page of the KV pool, and which page goes next when one is needed.

A page is free (no content worth keeping), held (by `refs` sequences), or cached (held by nobody, content in a trie).
Owns those states and the order of eviction. Does not know groups, positions or sequences.
"""

from __future__ import annotations

from collections import OrderedDict

from tokenwell.engine.schedule.prefix import Node
from tokenwell.wire.cache import NULL_PAGE


class Pool:
    """Pages 1 .. num_pages - 1; page 0 is never handed out."""

    def __init__(self, num_pages: int) -> None:
        self.refs = [0] * num_pages
        self.nodes: list[Node | None] = [None] * num_pages  # the node that offers this page's content
        self._free = list(range(num_pages - 1, NULL_PAGE, -1))
        self._stale: OrderedDict[int, None] = OrderedDict()  # cached, evicted first
        self._cached: OrderedDict[int, None] = OrderedDict()  # cached, least recently used first

    @property
    def total(self) -> int:
        """All pages that can be handed out."""
        return len(self.refs) - 1

    @property
    def cached(self) -> int:
        """Pages that nobody holds but whose content can be reused."""
        return len(self._cached) + len(self._stale)

    @property
    def available(self) -> int:
        """Pages that `take` can hand out."""
        return len(self._free) + self.cached

    def take(self) -> int:
        """A page for one holder: a free one, else the first in the order of eviction. The caller knows there is one."""
        if not self._free:
            self.forget(next(iter(self._stale or self._cached)))
        page = self._free.pop()
        self.refs[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One more holder for a page with content."""
        if self.refs[page] == 0:
            self._unlist(page)
        self.refs[page] += 1

    def drop(self, page: int, stale: bool = False) -> None:
        """One holder less. Of the last one, the page stays cached if a node offers it (`stale`: to be evicted first)."""
        self.refs[page] -= 1
        if self.refs[page]:
            return
        if self.nodes[page] is None:
            self._free.append(page)
        else:
            (self._stale if stale else self._cached)[page] = None

    def touch(self, page: int) -> None:
        """A cached page counts as used just now; pages that are stale or held are left as they are."""
        if page in self._cached:
            self._cached.move_to_end(page)

    def offer(self, page: int, node: Node) -> None:
        """From now on the page's content is found under `node`, which has no page yet."""
        node.page = page
        self.nodes[page] = node

    def forget(self, page: int) -> None:
        """A cached page becomes free; its content is found no more."""
        node = self.nodes[page]
        assert node is not None, f"page {page} is not cached"
        self._unlist(page)
        self.nodes[page] = None
        self._free.append(page)
        node.page = NULL_PAGE
        node.prune()

    def _unlist(self, page: int) -> None:
        if page in self._stale:
            del self._stale[page]
        else:
            del self._cached[page]

    def check(self) -> None:
        """Assert that every page is exactly one of free, held, cached, and that nodes and pages point at each other."""
        held = [page for page in range(1, len(self.refs)) if self.refs[page] > 0]
        places = [*self._free, *self._stale, *self._cached, *held]
        assert sorted(places) == list(range(1, len(self.refs))), "a page is in no place or in two"
        assert self.refs[NULL_PAGE] == 0 and self.nodes[NULL_PAGE] is None, "page 0 was handed out"
        for page, node in enumerate(self.nodes):
            assert node is None or node.page == page, f"page {page} and its node disagree"
        assert all(self.nodes[page] is None for page in self._free), "a free page is still offered"
        assert all(self.nodes[page] is not None for page in (*self._stale, *self._cached)), "a cached page is not offered"
