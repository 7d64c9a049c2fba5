"""How far the layers without a window could have gone on, told beside what could really be reused."""

from __future__ import annotations

from array import array

from tokenwell.engine.schedule.prefix import Node, Walk, longest_hit
from tokenwell.wire.cache import KvGroup


def group(window: int | None) -> KvGroup:
    return KvGroup("g", (0,), 1, 8, window, 64, 4)


def trie(data: bytes, pages: list[int]) -> Node:
    """A path of one node a page of 4 tokens; page 0 is none."""
    root = node = Node()
    for place, page in enumerate(pages):
        node = node.child(data[16 * place : 16 * place + 16])
        node.page = page
    return root


def test_a_window_that_is_gone_is_told_from_pages_that_are_gone() -> None:
    data = array("I", range(16)).tobytes()
    full = Walk(group(None), trie(data, [1, 2, 3, 4]), data, 15)
    gone = Walk(group(8), trie(data, [0, 0, 0, 0]), data, 15)
    hit = longest_hit((full, gone), 15, False)
    assert (hit.tokens, hit.kept) == (0, 15)
    evicted = Walk(group(None), trie(data, [1, 0, 0, 0]), data, 15)
    hit = longest_hit((evicted, gone), 15, False)
    assert (hit.tokens, hit.kept) == (0, 4)
    assert longest_hit((full,), 15, False).kept == 15
