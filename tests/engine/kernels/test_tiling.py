"""Tilings of attention on cards with less shared memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.engine.kernels import tiling as tilings
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
def test_fewer_stages_where_shared_memory_is_small(step: int, fitting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tilings, "room_bytes", lambda device: 64 << 10)
    assert stages_that_fit(4, step, torch.device("cuda")) == fitting
