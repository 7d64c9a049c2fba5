"""KV arithmetic against brute force: what a sequence really holds when it computes chunk by chunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenwell.wire.cache import (
    KvGroup,
    LayerKv,
    first_live_page,
    group_layers,
    longest_sequence,
    pages_for,
    peak_pages,
    sequence_pages,
)


def _group(page_tokens: int, window: int | None) -> KvGroup:
    return KvGroup("group", (0,), 1, 1, window, 2, page_tokens)


groups = st.builds(_group, st.integers(1, 9), st.none() | st.integers(1, 30))


@given(groups, st.integers(0, 60))
def test_a_page_lives_as_long_as_some_later_query_sees_a_token_of_it(group: KvGroup, computed: int) -> None:
    oldest = 0 if group.window is None else max(0, computed - group.window + 1)  # what the query at `computed` sees
    assert first_live_page(computed, group.window, group.page_tokens) == oldest // group.page_tokens


@given(groups, st.integers(1, 60), st.integers(1, 20), st.lists(st.integers(1, 20), min_size=60, max_size=60))
def test_no_way_of_chunking_holds_more_than_the_peak(group: KvGroup, tokens: int, step: int, chunks: list[int]) -> None:
    computed = held = 0
    for chunk in chunks:
        count = min(chunk, step, tokens - computed)
        held = max(held, pages_for(computed + count, group) - first_live_page(computed, group.window, group.page_tokens))
        computed += count
    assert computed == tokens
    assert held <= peak_pages(tokens, step, group) <= pages_for(tokens, group)


def test_the_peak_of_a_window_does_not_grow_with_the_sequence() -> None:
    group = _group(16, 1024)
    assert peak_pages(100, 256, group) == 7
    assert peak_pages(100_000, 256, group) == 81  # 1023 + 256 tokens touch 80 pages, one more when unaligned
    assert peak_pages(100_000, 256, _group(16, None)) == 6250


@given(st.lists(groups, min_size=1, max_size=3).map(tuple), st.integers(1, 40), st.integers(1, 20), st.integers(0, 60))
def test_the_longest_sequence_fits_and_one_token_more_does_not(
    groups: tuple[KvGroup, ...], num_pages: int, step: int, limit: int
) -> None:
    longest = longest_sequence(num_pages, step, limit, groups)
    fitting = [tokens for tokens in range(limit + 1) if sequence_pages(tokens, step, groups) <= num_pages - 1]
    assert longest == max(fitting)


def test_layers_group_by_what_a_token_costs_and_how_long_it_lives() -> None:
    sliding, full = LayerKv(0, 2, 8, 12), LayerKv(2, 1, 16, None)
    layers = [sliding, LayerKv(1, 2, 8, 12), full, LayerKv(2, 1, 16, None), LayerKv(1, 2, 8, 12)]
    groups, page_bytes = group_layers(layers, 4, 16)
    assert [group.name for group in groups] == ["sliding-12", "full"]
    assert [group.layers for group in groups] == [(0, 1), (2,)]
    assert [group.bytes_per_token for group in groups] == [2 * 2 * 2 * 8 * 4, 2 * 1 * 16 * 4]
    assert page_bytes == 16 * 256
    assert [group.page_tokens for group in groups] == [16, 32]
