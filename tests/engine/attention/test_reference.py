"""What the plain reference adds to textbook attention: 8-bit caches, keys rebuilt from values, batches without host copies."""

from __future__ import annotations

import torch
from tests.engine.attention.test_backends import build

from tokenwell.engine.attention.reference import ReferenceAttention
from tokenwell.engine.attention.spec import FP8, AttentionSpec, LayerCache, fold_for
from tokenwell.wire.cache import LayerKv


def test_a_batch_without_host_copies_gives_the_same() -> None:
    batch, _ = build([(9, 1), (0, 7), (30, 3)], LayerKv(0, 2, 8, None), 4, 1)
    q = torch.randn(len(batch.ids), 4, 8)
    spec = AttentionSpec(4, 2, 8, 0.3, window=6)
    expected = ReferenceAttention().attend(spec, q, batch.caches[0], batch, 0, None)
    batch.spans = ()
    torch.testing.assert_close(ReferenceAttention().attend(spec, q, batch.caches[0], batch, 0, None), expected)


def test_8_bit_numbers_are_stored_divided_and_read_multiplied() -> None:
    batch, pool = build([(0, 5)], LayerKv(0, 1, 8, None), 4, 2)
    k, v = 3 * torch.randn(5, 1, 8), 1000 * torch.randn(5, 1, 8)
    wide = pool.caches[0]
    narrow = LayerCache(torch.zeros_like(wide.k).to(FP8), torch.zeros_like(wide.v).to(FP8), 0.5, 16.0)
    for cache in (wide, narrow):
        cache.write(k, v, batch.places(0))
    q = torch.randn(5, 2, 8)
    spec = AttentionSpec(2, 1, 8, 0.3)
    expected = ReferenceAttention().attend(spec, q, wide, batch, 0, None)
    actual = ReferenceAttention().attend(spec, q, narrow, batch, 0, None)
    assert (actual - expected).norm() / expected.norm() < 0.06  # e4m3 has three bits behind the point


def test_folded_keys_are_the_rotated_weighted_values() -> None:
    batch, pool = build([(0, 6)], LayerKv(0, 2, 16, None), 4, 3)
    weight, frequencies = torch.rand(16), torch.rand(3)
    fold = fold_for(weight, frequencies, 1.0, 8, 6)
    v = torch.randn(6, 2, 16)
    # The rotation of complex numbers first + i * second, written out.
    k = v * weight
    turned = torch.complex(k[..., :3], k[..., 8:11]) * torch.polar(
        torch.ones(6, 1, 3), torch.arange(6.0)[:, None, None] * frequencies
    )
    k[..., :3], k[..., 8:11] = turned.real, turned.imag
    plain = pool.caches[0]
    folded = LayerCache(plain.v.clone(), plain.v.clone(), fold=fold)
    plain.write(k, v, batch.places(0))
    folded.write(k, v, batch.places(0))
    q = torch.randn(6, 2, 16)
    spec = AttentionSpec(2, 2, 16, 0.3)
    expected = ReferenceAttention().attend(spec, q, plain, batch, 0, None)
    torch.testing.assert_close(ReferenceAttention().attend(spec, q, folded, batch, 0, None), expected)
