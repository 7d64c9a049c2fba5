"""The page tables of running sequences: pages taken, shared, copied, given back, and offered to those who come later.

Owns the pool, the tries and every `Sequence` field about pages. Does not know the queue, the budget or who runs when.
The prefix cache is exact: a page is offered under the tokens that it holds, a full page as soon as it is computed, a
partly filled one when its sequence leaves. A sequence writes only into pages that it alone holds and that are not offered.

    one row, one sliding group            first                                   len(pages)
    page table    NULL NULL NULL NULL NULL | p    p    p    p  | p    p             |
    trie path     node node node node node   node node node node                    |
                                             held, shareable  | held, written into  |
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenwell.engine.schedule.pool import Pool
from tokenwell.engine.schedule.prefix import TOKEN_BYTES, Hit, Node, Walk, longest_hit
from tokenwell.engine.schedule.sequence import Sequence, Table
from tokenwell.wire.cache import NULL_PAGE, KvGroup, first_live_page, pages_for, peak_pages, sequence_pages

# Chat templates close a prompt with a header that the next turn may render differently, so that the next turn branches
# off a little before the prompt's end. Sliding windows this far before a branching point are kept as well.
BRANCH_SLACK_TOKENS = 64

NEVER = 1 << 62  # a number of tokens that no sequence reaches


class Blocks:
    """Pages of all groups and sequences."""

    def __init__(self, groups: tuple[KvGroup, ...], num_pages: int, step_tokens: int, prefix_cache: bool) -> None:
        """`step_tokens`: the most tokens of one sequence computed in a step; it bounds what sliding groups hold."""
        self.pool = Pool(num_pages)
        self._groups = groups
        self._step_tokens = step_tokens
        self._prefix_cache = prefix_cache
        self._roots = tuple(Node() for _ in groups)
        self._sources: list[int] = []  # pages to be copied by the plan in the making

    # ------------------------------------------------------------ admission

    def find(self, seq: Sequence, whole: bool = False) -> Hit:
        """The longest prefix of `seq` that the cache serves; `whole`: without copying a page. Changes nothing.

        At least one token is left to compute. Who wants prompt logprobs computes every position.
        """
        usable = self._prefix_cache and seq.prompt_logprobs is None
        limit = len(seq.tokens) - 1 if usable else 0
        data = seq.tokens.tobytes() if limit else b""
        walks = tuple(Walk(group, root, data, limit) for group, root in zip(self._groups, self._roots, strict=True))
        return longest_hit(walks, limit, whole)

    def cost(self, seq: Sequence, hit: Hit, length: int) -> int:
        """Available pages that `seq` uses up from its admission with `hit` until it is `length` tokens long."""
        shared = _shared_pages(hit)
        copied = [node.page for walk in hit.walks if (node := walk.copied(hit.tokens))]
        unheld = sum(self.pool.refs[page] == 0 for page in (*shared, *copied))
        step_tokens = min(self._step_tokens, len(seq.tokens) - hit.tokens)
        return sequence_pages(length, step_tokens, self._groups) - len(shared) + unheld

    def owed(self, seq: Sequence, length: int) -> int:
        """Pages that a running sequence may still ask for until it is `length` tokens long."""
        step_tokens = min(self._step_tokens, seq.todo())
        pairs = zip(self._groups, seq.tables, strict=True)
        return sum(max(0, peak_pages(length, step_tokens, group) - table.held) for group, table in pairs)

    def admit(self, seq: Sequence, hit: Hit) -> list[tuple[int, int]]:
        """Give `seq` its tables, filled from the cache. Returns page copies (source, destination).

        The caller made sure that the hit's cost is available. Sources stay as they are until `settle`.
        """
        sources = [walk.copied(hit.tokens) for walk in hit.walks]
        self._sources = [*self._sources, *(source.page for source in sources if source)]
        for page in (*(source.page for source in sources if source), *_shared_pages(hit)):
            self.pool.hold(page)
        # Only now may pages be taken: everything that the hit needs is held.
        seq.tables = tuple(self._shared_table(walk, hit.tokens) for walk in hit.walks)
        copies = []
        for source, table in zip(sources, seq.tables, strict=True):
            if source:
                table.pages.append(self.pool.take())
                copies.append((source.page, table.pages[-1]))
        seq.computed, seq.kept = hit.tokens, hit.kept
        seq.keep |= {seq.prompt_tokens, hit.tokens, hit.matched}
        self._measure(seq)
        return copies

    def _shared_table(self, walk: Walk, tokens: int) -> Table:
        first = first_live_page(tokens, walk.group.window, walk.group.page_tokens)
        nodes = walk.nodes[: tokens // walk.group.page_tokens]
        _end(nodes, walk.root).users += 1
        return Table([NULL_PAGE] * first + [node.page for node in nodes[first:]], nodes, first)

    def settle(self) -> None:
        """The plan is made: its copies run before anything that later plans write, so their sources may be evicted."""
        for page in self._sources:
            self.pool.drop(page)
        self._sources.clear()

    # ------------------------------------------------------------ while running

    def affordable(self, seq: Sequence, count: int) -> int:
        """How many of the next `count` tokens can have pages now; 0 if not even one."""
        available = self.pool.available
        low, high = 0, count
        while low < high:
            middle = (low + high + 1) // 2
            if self._missing(seq, seq.computed + middle) <= available:
                low = middle
            else:
                high = middle - 1
        return low

    def _missing(self, seq: Sequence, upto: int) -> int:
        pairs = zip(self._groups, seq.tables, strict=True)
        return sum(max(0, pages_for(upto, group) - len(table.pages)) for group, table in pairs)

    def grow(self, seq: Sequence, count: int) -> tuple[tuple[int, ...], ...]:
        """Take the pages for the next `count` tokens (affordable ones). Returns, per group, what was appended."""
        appended = []
        for group, table in zip(self._groups, seq.tables, strict=True):
            missing = pages_for(seq.computed + count, group) - len(table.pages)
            appended.append(tuple(self.pool.take() for _ in range(missing)))
            table.pages.extend(appended[-1])
        self._measure(seq)
        return tuple(appended)

    def advance(self, seq: Sequence) -> None:
        """`seq.computed` has reached `seq.mark`: offer the pages that became full, give back those behind the windows."""
        for group, root, table in zip(self._groups, self._roots, seq.tables, strict=True):
            if self._prefix_cache:
                self._offer_full(seq, group, root, table)
            live = first_live_page(seq.computed, group.window, group.page_tokens)
            for index in range(table.first, live):
                self._give_back(table, index, stale=not _before_branch(seq, group, index))
                table.pages[index] = NULL_PAGE
            table.first = max(table.first, live)
        self._measure(seq)

    def _offer_full(self, seq: Sequence, group: KvGroup, root: Node, table: Table) -> None:
        size = group.page_tokens
        node = last = _end(table.nodes, root)
        for index in range(len(table.nodes), seq.computed // size):
            node = node.child(seq.tokens[index * size : (index + 1) * size].tobytes())
            if not node.page:
                self._offer(table.pages[index], node)
            table.nodes.append(node)
        node.users += 1
        last.users -= 1

    def _offer(self, page: int, node: Node) -> None:
        self.pool.offer(page, node)
        if outgrown := node.outgrown():
            self.pool.forget(outgrown.page)

    def _give_back(self, table: Table, index: int, stale: bool = False) -> None:
        """Drop one held page; its content stays findable, here or in the page of whoever computed the same."""
        page, node = table.pages[index], table.nodes[index] if index < len(table.nodes) else None
        if node and not node.page:
            self._offer(page, node)  # the twin that was offered first is evicted by now
        self.pool.drop(page, stale)
        if node and node.page != page:
            self.pool.touch(node.page)

    # ------------------------------------------------------------ the end

    def release(self, seq: Sequence) -> None:
        """Give back everything: the sequence ended or was preempted. What it computed stays in the cache.

        From the last page to the first over all groups: eviction follows that order and so shortens what can be reused
        from its end.
        """
        order = []
        for number, (group, root, table) in enumerate(zip(self._groups, self._roots, seq.tables, strict=True)):
            if self._prefix_cache:
                self._offer_part(seq, group, root, table)
            order += [((index + 1) * group.page_tokens, number, index) for index in range(len(table.pages))]
        for _, number, index in sorted(order, reverse=True):
            table = seq.tables[number]
            if index >= table.first:
                self._give_back(table, index)
            elif index < len(table.nodes):
                self.pool.touch(table.nodes[index].page)
        for root, table in zip(self._roots, seq.tables, strict=True):
            end = _end(table.nodes, root)
            end.users -= 1
            end.prune()
        seq.tables = ()
        seq.capacity = seq.mark = 0

    def _offer_part(self, seq: Sequence, group: KvGroup, root: Node, table: Table) -> None:
        """Offer the last, partly filled page, unless some page offers the same already."""
        start = len(table.nodes) * group.page_tokens
        count = seq.computed - start
        if count == 0:
            return
        parent = _end(table.nodes, root)
        key = seq.tokens[start : seq.computed].tobytes()
        same, common = parent.nearest(key)
        if same and common == count:
            self.pool.touch(same.page)
        else:
            self._offer(table.pages[len(table.nodes)], parent.child(key))

    def _measure(self, seq: Sequence) -> None:
        pairs = list(zip(self._groups, seq.tables, strict=True))
        seq.capacity = min(len(table.pages) * group.page_tokens for group, table in pairs)
        seq.mark = min(self._next_mark(group, table) for group, table in pairs)

    def _next_mark(self, group: KvGroup, table: Table) -> int:
        full = (len(table.nodes) + 1) * group.page_tokens if self._prefix_cache else NEVER
        behind = (table.first + 1) * group.page_tokens + group.window - 1 if group.window is not None else NEVER
        return min(full, behind)

    # ------------------------------------------------------------ self-check

    def check(self, running: Iterable[Sequence]) -> None:
        """Assert every invariant of pages, tables and tries; `running`: all sequences that hold anything."""
        refs = [0] * (self.pool.total + 1)
        users: dict[int, int] = {}
        for seq in running:
            for group, root, table in zip(self._groups, self._roots, seq.tables, strict=True):
                self._check_table(seq, group, root, table)
                for page in table.pages[table.first :]:
                    refs[page] += 1
                end = id(_end(table.nodes, root))
                users[end] = users.get(end, 0) + 1
        assert not self._sources, "copy sources are still held"
        assert refs == self.pool.refs, "a page is not held as often as tables name it"
        self.pool.check()
        offered = 0
        for group, root in zip(self._groups, self._roots, strict=True):
            offered += _check_trie(group, root, users)
        assert offered == sum(node is not None for node in self.pool.nodes), "an offered page is in no trie"

    def _check_table(self, seq: Sequence, group: KvGroup, root: Node, table: Table) -> None:
        size, where = group.page_tokens, f"{seq.id}, group {group.name}"
        assert table.first == first_live_page(seq.computed, group.window, group.page_tokens), (
            f"{where}: pages behind the window are held"
        )
        assert not any(table.pages[: table.first]) and all(table.pages[table.first :]), f"{where}: wrong NULL_PAGE"
        assert table.held <= peak_pages(seq.length, self._step_tokens, group), f"{where}: more than peak_pages"
        assert seq.computed <= seq.capacity <= len(table.pages) * size, f"{where}: capacity"
        assert seq.computed < seq.mark <= self._next_mark(group, table), f"{where}: mark"
        assert len(table.nodes) == (seq.computed // size if self._prefix_cache else 0), f"{where}: path length"
        parent = root
        for index, node in enumerate(table.nodes):
            assert node.parent is parent and node in parent.children, f"{where}: the path is broken at page {index}"
            assert node.key == seq.tokens[index * size : (index + 1) * size].tobytes(), f"{where}: content of page {index}"
            parent = node
        for page in table.pages[max(table.first, len(table.nodes)) :]:
            assert self.pool.refs[page] == 1 and self.pool.nodes[page] is None, f"{where}: page {page} is not its own"


def _end(nodes: list[Node], root: Node) -> Node:
    return nodes[-1] if nodes else root


def _shared_pages(hit: Hit) -> list[int]:
    return [node.page for walk in hit.walks for node in walk.shared(hit.tokens)]


def _before_branch(seq: Sequence, group: KvGroup, index: int) -> bool:
    """Whether page `index` of a sliding group is seen from a position where another sequence may branch off."""
    assert group.window is not None
    start, end = index * group.page_tokens, (index + 1) * group.page_tokens
    return any(start < point and end > point - group.window + 1 - BRANCH_SLACK_TOKENS for point in seq.keep)


def _check_trie(group: KvGroup, root: Node, users: dict[int, int]) -> int:
    """Assert the shape of one trie; returns how many pages it offers."""
    offered, todo = 0, [root]
    while todo:
        node = todo.pop()
        offered += bool(node.page)
        todo += node.children
        keys = [child.key for child in node.children]
        assert keys == sorted(set(keys)), f"group {group.name}: children out of order"
        assert node.users == users.get(id(node), 0), f"group {group.name}: a node's users are miscounted"
        if node is root:
            continue
        length = len(node.key) // TOKEN_BYTES
        assert node.page or node.children or node.users, f"group {group.name}: a node that nobody needs"
        assert 0 < length <= group.page_tokens, f"group {group.name}: a page of {length} tokens"
        assert length == group.page_tokens or not (node.children or node.users), f"group {group.name}: a part with children"
    return offered
