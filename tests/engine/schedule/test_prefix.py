"""The tries against their definition, by brute force."""

from __future__ import annotations

import random
from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.schedule.device import group

from tokenwell.engine.schedule.prefix import Node, Walk, common_tokens, longest_hit
from tokenwell.wire.cache import KvGroup

tokens = st.lists(st.sampled_from([0, 1, 256, 70_000]), max_size=9)


def _key(content: list[int]) -> bytes:
    return array("I", content).tobytes()


def _common(left: list[int], right: list[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


@given(tokens, tokens)
def test_common_tokens(left: list[int], right: list[int]) -> None:
    assert common_tokens(_key(left), _key(right)) == _common(left, right)


@given(st.lists(st.tuples(tokens, st.booleans()), max_size=12), tokens)
def test_the_nearest_child_with_a_page_is_found(children: list[tuple[list[int], bool]], wanted: list[int]) -> None:
    root = Node()
    for content, has_page in children:
        child = root.child(_key(content))
        child.page = max(child.page, int(has_page))
    best, shared = root.nearest(_key(wanted))
    assert shared == max((_common(content, wanted) for content, has_page in children if has_page), default=0)
    if best is None:
        assert shared == 0
    else:
        assert best.page and common_tokens(best.key, _key(wanted)) == shared
    exact = root.find(_key(wanted))
    assert (exact is not None) == any(content == wanted for content, _ in children)


def _random_trie(chance: random.Random, kv: KvGroup, texts: list[list[int]]) -> Node:
    """All texts page by page, the last page as a part; some pages are gone."""
    root, size, present = Node(), kv.page_tokens, chance.choice([0.4, 0.8, 1.0])
    for text in texts:
        node = root
        for start in range(0, len(text), size):
            part = text[start : start + size]
            if len(part) < size and chance.random() < 0.3:
                break
            node = node.child(_key(part))
            node.page = int(chance.random() < present)
    return root


def _serves(kv: KvGroup, root: Node, text: list[int], count: int, whole: bool) -> bool:
    """Whether pages of this group hold all that a query at position `count` sees, and the page it is in."""
    size = kv.page_tokens
    first = 0 if kv.window is None else max(0, count - kv.window + 1) // size
    full, part = divmod(count, size)
    node = root
    for index in range(full):
        child = node.find(_key(text[index * size : (index + 1) * size]))
        if child is None or (index >= first and not child.page):
            return False
        node = child
    own = text[full * size : count]
    contents = [list(array("I", child.key)) for child in node.children if child.page]
    return not part or (not whole and any(content[:part] == own for content in contents))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_longest_hit_is_the_longest_by_definition(seed: int, whole: bool) -> None:
    chance = random.Random(seed)
    groups = [
        group(chance.choice([1, 2, 3, 4, 8]), chance.choice([None, 1, 2, 3, 5, 7, 12])) for _ in range(chance.randint(1, 3))
    ]
    text = [chance.randrange(2) for _ in range(30)]
    texts = [text[: chance.randint(0, 30)] + [chance.randrange(2) for _ in range(chance.randint(0, 6))] for _ in range(5)]
    roots = [_random_trie(chance, kv, texts) for kv in groups]
    limit = chance.randint(0, len(text) - 1)
    walks = tuple(Walk(kv, root, _key(text), limit) for kv, root in zip(groups, roots, strict=True))
    hit = longest_hit(walks, limit, whole)
    pairs = list(zip(groups, roots, strict=True))
    fitting = [count for count in range(limit + 1) if all(_serves(kv, root, text, count, whole) for kv, root in pairs)]
    assert hit.tokens == max(fitting)
    assert hit.tokens <= hit.matched <= limit
    for walk, (kv, root) in zip(walks, pairs, strict=True):
        assert walk.reach(limit, whole) == max(at for at in range(limit + 1) if _serves(kv, root, text, at, whole))
        assert all(node.page for node in walk.shared(hit.tokens))
        source = walk.copied(hit.tokens)
        part = hit.tokens % walk.group.page_tokens
        assert (source is None) == (part == 0)
        if source:
            start = hit.tokens - part
            assert source.page and common_tokens(source.key, _key(text[start:])) >= part
