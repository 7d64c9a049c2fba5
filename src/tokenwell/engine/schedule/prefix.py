"""The prefix cache's index: one trie a group, keyed by what the pages contain.

Owns the shape of the trie and how far cached pages follow a token string. Does not know which pages are in use, when one
is evicted, or what a sequence is. An edge is one page: its token ids as 4-byte words, so equality is exact, never a hash.
Only a leaf may be partly filled.

    root --[page 0]--> node --[page 1]--> node --[page 2]--> node
                                     \\--[page 2, other tokens]--> node (partly filled)
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from operator import attrgetter

from tokenwell.wire.cache import NULL_PAGE, KvGroup, first_live_page

TOKEN_BYTES = 4  # array("I") items; the type of Sequence.tokens

_key = attrgetter("key")


def common_tokens(left: bytes, right: bytes) -> int:
    """How many leading token ids two strings of 4-byte words share."""
    low, high = 0, min(len(left), len(right)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if left[low * TOKEN_BYTES : middle * TOKEN_BYTES] == right[low * TOKEN_BYTES : middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low


class Node:
    """One page's content after the content of all its ancestors. Without a page it is only a step on the way to others."""

    __slots__ = ("children", "key", "page", "parent", "users")

    def __init__(self, parent: Node | None = None, key: bytes = b"") -> None:
        self.parent = parent
        self.key = key
        self.page = NULL_PAGE
        self.children: list[Node] = []  # sorted by key, so that the nearest relative is a neighbour
        self.users = 0  # running sequences whose last full page this is: they continue the path from here

    def find(self, key: bytes) -> Node | None:
        """The child with exactly this content."""
        index = bisect_left(self.children, key, key=_key)
        if index < len(self.children) and self.children[index].key == key:
            return self.children[index]
        return None

    def child(self, key: bytes) -> Node:
        """The child with exactly this content, made if there is none."""
        index = bisect_left(self.children, key, key=_key)
        if index == len(self.children) or self.children[index].key != key:
            self.children.insert(index, Node(self, key))
        return self.children[index]

    def nearest(self, key: bytes) -> tuple[Node | None, int]:
        """The child with a page that shares most leading tokens with `key`, and how many; (None, 0) if none shares any.

        In sorted order the common prefix with `key` only shrinks with the distance from the place where `key` belongs.
        """
        best, shared = None, 0
        place = bisect_left(self.children, key, key=_key)
        for side in (range(place, len(self.children)), range(place - 1, -1, -1)):
            for index in side:
                child = self.children[index]
                common = common_tokens(child.key, key)
                if common <= shared:
                    break
                if child.page:
                    best, shared = child, common
                    break
        return best, shared

    def outgrown(self) -> Node | None:
        """The partly filled sibling whose content this node's page begins with, if there is one: it is not needed any more.

        Nothing sorts between such a sibling and this node unless it begins with that content too.
        """
        if self.parent is None:
            return None
        siblings = self.parent.children
        index = bisect_left(siblings, self.key, key=_key) - 1
        if index >= 0 and self.key.startswith(siblings[index].key):
            return siblings[index]
        return None

    def prune(self) -> None:
        """Take this node, and then its ancestors, out of the trie as long as nothing needs them."""
        node = self
        while node.parent is not None and not (node.page or node.children or node.users):
            siblings = node.parent.children
            del siblings[bisect_left(siblings, node.key, key=_key)]
            node = node.parent


class Walk:
    """The way of one token string through one group's trie, as far as whole pages of the same content go."""

    __slots__ = ("data", "group", "limit", "nodes", "root", "runs")

    def __init__(self, group: KvGroup, root: Node, data: bytes, limit: int) -> None:
        """`data`: the token string as 4-byte words; at most its first `limit` tokens may come from the cache."""
        self.group, self.root, self.data, self.limit = group, root, data, limit
        self.nodes: list[Node] = []
        # runs[i]: pages runs[i] .. i-1 are all there (and page runs[i]-1 is not)
        self.runs = [0]
        step = group.page_tokens * TOKEN_BYTES
        node = root
        for start in range(0, limit // group.page_tokens * step, step):
            child = node.find(data[start : start + step])
            if child is None:
                break
            node = child
            self.nodes.append(node)
            self.runs.append(self.runs[-1] if node.page else len(self.nodes))

    def source(self, index: int) -> tuple[Node | None, int]:
        """A cached page whose content begins like page `index` of the string, and with how many of its tokens."""
        size = self.group.page_tokens
        if index < len(self.nodes) and self.nodes[index].page:
            return self.nodes[index], size
        start = index * size
        data = self.data[start * TOKEN_BYTES : min(start + size, self.limit) * TOKEN_BYTES]
        return (self.nodes[index - 1] if index else self.root).nearest(data)

    @property
    def matched(self) -> int:
        """Tokens that the trie has seen in this order, whether or not their pages are still there."""
        return len(self.nodes) * self.group.page_tokens + self.source(len(self.nodes))[1]

    def reach(self, tokens: int, whole: bool) -> int:
        """The largest n <= `tokens` such that cached pages hold all that a query at position n sees before itself.

        `whole`: only pages that can be shared as they are, none that must be copied because n lies inside it.
        """
        size = self.group.page_tokens
        for index in range(min(tokens // size, len(self.nodes)), -1, -1):
            start = index * size
            room = min(tokens - start, size)
            # Fewer tokens of this page would need even older pages: one test decides for the whole page.
            if self.runs[index] > first_live_page(start + room, self.group.window, self.group.page_tokens):
                continue
            part = min(room, self.source(index)[1]) if room and not whole else 0
            if self.runs[index] <= first_live_page(start + part, self.group.window, self.group.page_tokens):
                return start + part
        return 0

    def shared(self, tokens: int) -> list[Node]:
        """The nodes whose pages a sequence shares that takes `tokens` (a reach of this walk) from the cache."""
        return self.nodes[first_live_page(tokens, self.group.window, self.group.page_tokens) : tokens // self.group.page_tokens]

    def copied(self, tokens: int) -> Node | None:
        """The node whose page has to be copied because `tokens` (a reach of this walk) ends inside it."""
        index, part = divmod(tokens, self.group.page_tokens)
        return self.source(index)[0] if part else None


@dataclass(frozen=True, slots=True)
class Hit:
    """What the cache offers one sequence."""

    tokens: int  # this many need not be computed
    matched: int  # up to here the string was seen before, even where pages are gone
    walks: tuple[Walk, ...]  # one a group
    kept: int = 0  # what the groups without a window alone could serve


def longest_hit(walks: tuple[Walk, ...], limit: int, whole: bool) -> Hit:
    """The largest number of tokens, at most `limit`, that every group can serve."""
    kept = min((walk.reach(limit, whole) for walk in walks if walk.group.window is None), default=0)
    tokens, before = limit, -1
    while tokens != before:
        before = tokens
        for walk in walks:
            tokens = walk.reach(tokens, whole)
    return Hit(tokens, max(walk.matched for walk in walks), walks, kept)
