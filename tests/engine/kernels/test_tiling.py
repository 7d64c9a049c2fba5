"""Tilings of attention on cards with less shared memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.engine.kernels.paged_decode import cut_for
from tokenwell.engine.kernels.tiling import Tiling, stages_that_fit


@given(
    tile=st.sampled_from([16, 64, 128]), block=st.sampled_from([16, 32, 128]), stages=st.integers(1, 3),
    queries=st.integers(1, 64), dim=st.sampled_from([16, 64, 128, 512]), room=st.sampled_from([1 << 14, 48 << 10, 1 << 20]),
    shares=st.sampled_from([1, 2]),
)  # fmt: skip
def test_a_tiling_shrinks_until_it_fits(
    tile: int, block: int, stages: int, queries: int, dim: int, room: int, shares: int
) -> None:  # fmt: skip
    asked = Tiling(tile, block, 4, stages, shares=shares)
    fitted = asked.fitted(queries, dim, 2, room)
    assert fitted.tile >= queries
    assert {fitted.tile & (fitted.tile - 1), fitted.block & (fitted.block - 1)} == {0}
    assert fitted.block >= 16 and fitted.tile >= 16
    smallest = fitted.block == 16 and fitted.tile <= max(16, 2 * queries)
    assert fitted.shared_bytes(dim, 2) <= room or smallest
    if asked.tile >= queries and asked.shared_bytes(dim, 2) <= room:
        assert fitted == asked


@pytest.mark.parametrize(("step", "fitting"), [(1 << 10, 4), (16 << 10, 4), (24 << 10, 2), (65 << 10, 1)])
def test_fewer_stages_where_shared_memory_is_small(step: int, fitting: int) -> None:
    assert stages_that_fit(4, step, 64 << 10) == fitting


@given(
    rows=st.sampled_from([1, 16, 256]), kv_heads=st.sampled_from([1, 8]), dim=st.sampled_from([64, 128, 256, 512]),
    itemsize=st.sampled_from([1, 2, 4]), visible=st.sampled_from([128, 1024, 131072]),
    room=st.sampled_from([63 << 10, 98 << 10, 226 << 10]),
)  # fmt: skip
def test_decode_fits_too(rows: int, kv_heads: int, dim: int, itemsize: int, visible: int, room: int) -> None:
    asked = cut_for(rows, kv_heads, dim, itemsize, visible, processors=132)
    key_bytes = 2 * dim * itemsize
    fitted = asked.fitted(key_bytes, room)
    assert fitted.block * fitted.stages * key_bytes <= room or (fitted.block, fitted.stages) == (16, 1)
    assert fitted.splits == asked.splits
    if room > 200 << 10:  # the card that the cut was measured on
        assert fitted == asked
