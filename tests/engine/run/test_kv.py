"""Grouping of layers and the layout of pages."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.run.kv import KvPool, LayerKv, group_layers

CPU = torch.device("cpu")


def test_layers_group_by_what_a_token_costs_and_how_long_it_lives() -> None:
    sliding, full = LayerKv(0, 2, 8, 12), LayerKv(2, 1, 16, None)
    layers = [sliding, LayerKv(1, 2, 8, 12), full, LayerKv(2, 1, 16, None), LayerKv(1, 2, 8, 12)]
    groups, page_bytes = group_layers(layers, 4, 16)
    assert [group.name for group in groups] == ["sliding-12", "full"]
    assert [group.layers for group in groups] == [(0, 1), (2,)]
    assert [group.bytes_per_token for group in groups] == [2 * 2 * 2 * 8 * 4, 2 * 1 * 16 * 4]
    assert page_bytes == 16 * 256
    assert [group.page_tokens for group in groups] == [16, 32]


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.sampled_from([None, 4]), st.integers(1, 3), st.sampled_from([2, 4])), min_size=1, max_size=6),
    page_tokens=st.integers(1, 8),
)
def test_no_two_tensors_of_a_page_overlap(shapes: list[tuple[int | None, int, int]], page_tokens: int) -> None:
    layers = [LayerKv(index, heads, dim, window) for index, (window, heads, dim) in enumerate(shapes)]
    groups, page_bytes = group_layers(layers, 4, page_tokens)
    pool = KvPool(groups, page_bytes, 3, torch.float32, CPU)
    for group in groups:
        pool.pages.zero_()
        for layer in group.layers:
            pool.caches[layer].k[1] += 1
            pool.caches[layer].v[1] += 1
        assert pool.pages[1].max() == 1, "two tensors share bytes"
        assert pool.pages[1].sum() * 4 == group.bytes_per_token * group.page_tokens
        assert pool.pages[0].max() == pool.pages[2].max() == 0, "a tensor reaches into another page"


def test_pages_are_copied_whole() -> None:
    groups, page_bytes = group_layers([LayerKv(0, 1, 4, None)], 4, 4)
    pool = KvPool(groups, page_bytes, 5, torch.float32, CPU)
    pool.pages[1:3].normal_()
    pool.copy([(1, 3), (2, 4)])
    assert torch.equal(pool.pages[1:3], pool.pages[3:5])
