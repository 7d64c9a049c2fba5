"""Where prompts go: conversations stay, crowds spread, nobody is much busier than another, and memory is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenwell.service.router import BLOCK_TOKENS, Router, _blocks

MARGIN = 1000


def prompt(conversation: int, tokens: int) -> list[int]:
    """The first tokens of a conversation, which are like no other's."""
    return [(conversation * 7919 + place * 31) % 50_000 for place in range(tokens)]


def sizes(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=1, max_size=40)


@given(replicas=st.integers(2, 5), turns=sizes(BLOCK_TOKENS, 4 * BLOCK_TOKENS), others=st.integers(0, 10))
def test_a_conversation_stays(replicas: int, turns: list[int], others: int) -> None:
    """However others come and go, while no replica is busier than the margin allows."""
    router = Router(MARGIN)
    loads = dict.fromkeys(range(replicas), 0)
    length = turns[0]
    home = router.choose(prompt(0, length), loads)
    for number, more in enumerate(turns):
        for other in range(others):
            router.choose(prompt(1 + number * 16 + other, more), loads)
        length += more
        loads[home] = MARGIN
        assert router.choose(prompt(0, length), loads) == home


@given(
    replicas=st.integers(1, 5),
    requests=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2000), st.booleans()), max_size=60),
    margin=st.integers(0, 3000),
)
def test_nobody_is_much_busier(replicas: int, requests: list[tuple[int, int, bool]], margin: int) -> None:
    """A chosen replica is never busier than the least busy one by more than the margin and what its cache may save."""
    router = Router(margin)
    running: list[tuple[int, int]] = []
    for conversation, tokens, ends in requests:
        loads = dict.fromkeys(range(replicas), 0)
        for replica, load in running:
            loads[replica] += load
        chosen = router.choose(prompt(conversation, tokens), loads)
        assert loads[chosen] - min(loads.values()) <= margin + tokens
        running.append((chosen, tokens))
        if ends:
            running.pop(0)


@given(replicas=st.integers(2, 5), shared=st.integers(0, 3 * BLOCK_TOKENS), jobs=st.integers(20, 60))
def test_nobody_starves(replicas: int, shared: int, jobs: int) -> None:
    """Long-running jobs with a common beginning spread over all replicas, evenly but for the margin."""
    router = Router(MARGIN)
    loads = dict.fromkeys(range(replicas), 0)
    for job in range(jobs):
        chosen = router.choose(prompt(0, shared) + prompt(job + 1, 500), loads)
        loads[chosen] += shared + 500
    assert max(loads.values()) - min(loads.values()) <= MARGIN + 2 * shared + 500
    assert min(loads.values()) > 0 or jobs * (shared + 500) <= replicas * (MARGIN + 2 * shared + 500)


def test_equals_take_turns() -> None:
    router = Router()
    loads = {0: 0, 1: 0, 2: 0}
    assert [router.choose([1, 2, 3], loads) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_an_overloaded_home_is_left_and_found_again() -> None:
    router = Router(MARGIN)
    text = prompt(0, 10 * BLOCK_TOKENS)
    assert router.choose(text, {0: 0, 1: 0}) == 0
    saved = 10 * BLOCK_TOKENS
    assert router.choose(text, {0: MARGIN + saved, 1: 0}) == 0
    assert router.choose(text, {0: MARGIN + saved + 1, 1: 0}) == 1
    # Both have it now: the less busy one.
    assert router.choose(text, {0: 10, 1: 11}) == 0 and router.choose(text, {0: 11, 1: 10}) == 1


def test_only_those_that_serve_are_chosen_and_a_lost_cache_is_forgotten() -> None:
    router = Router()
    text = prompt(0, 100)
    assert router.choose(text, {0: 0, 1: 0}) == 0
    assert router.choose(text, {1: 0}) == 1
    router.forget(0)
    assert router.choose(text, {0: 0, 1: 5}) == 1
    router.forget(7)


@given(lengths=sizes(1, 40 * BLOCK_TOKENS))
def test_memory_is_bounded(lengths: list[int]) -> None:
    """The oldest are forgotten first, and of a prompt its end."""
    most = 32
    router = Router(most_blocks=most)
    for conversation, length in enumerate(lengths):
        router.choose(prompt(conversation, length), {0: 0})
        assert sum(map(len, router._sent.values())) <= most
    last = prompt(len(lengths) - 1, lengths[-1])
    assert router._known(0, list(_blocks(last))) == min(most, lengths[-1] // BLOCK_TOKENS)
