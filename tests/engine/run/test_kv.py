"""The layout of pages."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenwell.engine.attention.spec import fold_for
from tokenwell.engine.run.kv import KvPool
from tokenwell.wire.cache import LayerKv, group_layers

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.sampled_from([None, 4]), st.integers(1, 3), st.sampled_from([2, 4]), st.booleans()), min_size=1, max_size=6
    ),
    page_tokens=st.integers(1, 8),
)
def test_no_two_tensors_of_a_page_overlap(shapes: list[tuple[int | None, int, int, bool]], page_tokens: int) -> None:
    layers = [LayerKv(index, heads, dim, window, folded) for index, (window, heads, dim, folded) in enumerate(shapes)]
    groups, page_bytes = group_layers(layers, 4, page_tokens)
    fold = fold_for(torch.ones(4), torch.ones(1), 1.0, 2, 8)
    pool = KvPool(groups, page_bytes, 3, torch.float32, CPU, dict.fromkeys(range(len(layers)), fold))
    for group in groups:
        pool.pages.zero_()
        for layer in group.layers:
            cache = pool.caches[layer]
            cache.v[1] += 1
            if layers[layer].folded:
                assert cache.fold is fold and cache.k.data_ptr() == cache.v.data_ptr()
            else:
                assert cache.fold is None
                cache.k[1] += 1
        values = pool.pages.view(torch.float32)
        assert values[1].max() == 1, "two tensors share bytes"
        assert values[1].sum() * 4 == group.bytes_per_token * group.page_tokens
        assert values[0].max() == values[2].max() == 0, "a tensor reaches into another page"


def test_pages_are_copied_whole() -> None:
    groups, page_bytes = group_layers([LayerKv(0, 1, 4, None)], 4, 4)
    pool = KvPool(groups, page_bytes, 5, torch.float32, CPU)
    pool.pages[1:3].random_(0, 256)
    pool.copy([(1, 3), (2, 4)])
    assert torch.equal(pool.pages[1:3], pool.pages[3:5])


def test_eight_bits_a_value() -> None:
    groups, page_bytes = group_layers([LayerKv(0, 2, 8, None), LayerKv(1, 2, 8, None)], 1, 4)
    pool = KvPool(groups, page_bytes, 2, torch.float8_e4m3fn, CPU, scales={1: (0.5, 2.0)})
    assert page_bytes == 4 * 2 * 2 * 2 * 8
    assert pool.caches[0].k.dtype == torch.float8_e4m3fn
    assert (pool.caches[0].k_scale, pool.caches[1].k_scale, pool.caches[1].v_scale) == (1.0, 0.5, 2.0)
    pool.caches[1].write(torch.full((1, 2, 8), 3.0), torch.full((1, 2, 8), 5000.0), (torch.tensor([1]), torch.tensor([2])))
    assert pool.caches[1].k[1, 2].float().unique().tolist() == [6.0]
    assert pool.caches[1].v[1, 2].float().unique().tolist() == [448.0]
