"""Page states and the order of eviction."""

from __future__ import annotations

from array import array

from tokenwell.engine.schedule.pool import Pool
from tokenwell.engine.schedule.prefix import Node


def _cached(pool: Pool, root: Node, token: int, stale: bool = False) -> int:
    """Take a page, offer it as the content `token`, and let it go."""
    page = pool.take()
    pool.offer(page, root.child(array("I", [token]).tobytes()))
    pool.drop(page, stale)
    return page


def test_every_page_but_the_null_page_is_handed_out_once() -> None:
    pool = Pool(5)
    assert sorted(pool.take() for _ in range(4)) == [1, 2, 3, 4]
    assert (pool.total, pool.available, pool.cached) == (4, 0, 0)
    pool.check()


def test_a_page_that_nobody_offers_is_free_again() -> None:
    pool = Pool(2)
    page = pool.take()
    pool.drop(page)
    assert (pool.available, pool.cached) == (1, 0)
    assert pool.take() == page


def test_free_pages_go_first_then_stale_ones_then_the_least_recently_used() -> None:
    pool, root = Pool(6), Node()
    first, second, third = (_cached(pool, root, token) for token in (1, 2, 3))
    stale = _cached(pool, root, 4, stale=True)
    pool.touch(first)
    pool.touch(stale)  # stays stale
    assert (pool.available, pool.cached) == (5, 4)
    free = pool.take()
    assert free not in (first, second, third, stale)
    assert [pool.take() for _ in range(4)] == [stale, second, third, first]
    assert root.children == []
    pool.check()


def test_a_held_page_is_safe_until_its_last_holder_drops_it() -> None:
    pool, root = Pool(2), Node()
    page = _cached(pool, root, 1)
    pool.hold(page)
    pool.hold(page)
    pool.drop(page)
    assert (pool.available, pool.cached) == (0, 0)
    pool.drop(page)
    assert (pool.available, pool.cached) == (1, 1)
    pool.check()


def test_an_evicted_page_leaves_the_way_to_its_descendants() -> None:
    pool, root = Pool(3), Node()
    parent = _cached(pool, root, 1)
    node = pool.nodes[parent]
    assert node is not None
    child = _cached(pool, node, 2)
    pool.forget(parent)
    assert root.children == [node] and not node.page
    pool.forget(child)
    assert root.children == []
    pool.check()
