"""The kernel before attention against plain torch, and what it leaves in the paged cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.kernels import rounding

from tokenwell.engine.kernels import front
from tokenwell.engine.kernels.heads import Heads

rounding.correct()
FP8 = torch.float8_e4m3fn
EXACT = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
PAGES = 7


def run(
    gpu: torch.device, heads: Heads, counts: list[int], page_tokens: int, dtype: torch.dtype, cache: torch.dtype, *,
    scale: float = 1.0, folded: bool = False,
) -> None:  # fmt: skip
    """Rows of so many tokens, in pages of their own; every place of the cache is compared."""
    kinds = heads.heads + (heads.kv_heads * (1 if heads.k_eq_v else 2) if heads.owns else 0)
    tokens, dim = sum(counts), heads.head_dim
    qkv = (2 * torch.randn((tokens, kinds * dim), device=gpu)).to(dtype)
    starts = [int(start) for start in torch.randint(0, 4, (len(counts),))]
    positions = torch.tensor(
        [start + i for start, count in zip(starts, counts, strict=True) for i in range(count)], dtype=torch.int64, device=gpu
    )
    rows = torch.tensor([row for row, count in enumerate(counts) for _ in range(count)], dtype=torch.int32, device=gpu)
    slots = torch.randperm(len(counts) + 2)[: len(counts)].to(gpu, torch.int32)
    width = max((start + count for start, count in zip(starts, counts, strict=True)), default=0) // page_tokens + 1
    pages = (len(counts) + 2) * width
    table = torch.randperm(pages).view(-1, width).to(gpu, torch.int32)
    # Two layers share the bytes of a page: strided views, as the pool gives them.
    pool = torch.full((pages, 4, page_tokens, heads.kv_heads, dim), 7.0, device=gpu).to(cache)
    before = pool.clone()
    k, v = pool[:, 2], pool[:, 3]
    frequencies = torch.rand(heads.turning, device=gpu)
    cos, sin = front.angles(positions, frequencies, 1.25)
    for one, other in zip((cos, sin), front.reference_angles(positions, frequencies, 1.25), strict=True):
        assert torch.allclose(one, other, atol=2e-6)
    q = front.front(qkv, heads, cos, sin, positions, rows, slots, table, page_tokens, k, v, scale, scale, folded=folded)
    q_expected, k_expected, v_expected = front.reference_front(qkv, heads, cos, sin)
    limit = EXACT[dtype] * max(1.0, q_expected.abs().max().item()) if tokens else 0
    assert q.dtype == dtype
    assert q.shape == (tokens, heads.heads, dim)
    assert tokens == 0 or (q.float() - q_expected).abs().max() <= limit
    written = torch.zeros((pages, page_tokens), dtype=torch.bool, device=gpu)
    where = (table[slots[rows].long(), positions // page_tokens].long(), positions % page_tokens)
    if heads.owns:
        written[where] = True
        for stored, expected, here in ((k, k_expected, not folded), (v, v_expected, True)):
            assert expected is not None
            if here and tokens:
                inside = (expected / scale).clamp(-448, 448) if cache == FP8 else expected
                error = (stored[where].float() - inside).abs()
                assert (error <= max(EXACT.get(cache, 0.0), 0.07 if cache == FP8 else 0.0) * (inside.abs() + 1)).all()
        if folded:
            assert torch.equal(k.float(), before[:, 2].float())
    assert torch.equal(pool[:, :2].float(), before[:, :2].float())
    assert torch.equal(v.float()[~written], before[:, 3].float()[~written])
    assert torch.equal(k.float()[~written], before[:, 2].float()[~written])


def weights(gpu: torch.device, dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = torch.randn((2, dim), device=gpu).to(dtype)
    return q, k


@pytest.mark.parametrize("dtype", list(EXACT))
@pytest.mark.parametrize("kind", ["plain", "normed", "partial", "gemma", "one projection", "folded", "queries alone"])
def test_front(gpu: torch.device, dtype: torch.dtype, kind: str) -> None:
    q_norm, k_norm = weights(gpu, 16, dtype)
    heads = {
        "plain": Heads(4, 2, 16, 8, 8),
        "normed": Heads(4, 2, 16, 8, 8, 1e-6, q_norm, k_norm),
        "partial": Heads(3, 3, 24, 4, 4),
        "gemma": Heads(4, 1, 16, 8, 2, 1e-6, q_norm, k_norm, v_norm=True),
        "one projection": Heads(4, 2, 16, 8, 2, 1e-6, q_norm, k_norm, v_norm=True, k_eq_v=True),
        "folded": Heads(4, 2, 16, 8, 2, 1e-6, q_norm, k_norm, v_norm=True, k_eq_v=True),
        "queries alone": Heads(4, 2, 16, 8, 8, 1e-6, q_norm, owns=False),
    }[kind]
    for counts in ([1, 1, 1], [1, 9], []):
        run(gpu, heads, counts, 3, dtype, dtype, folded=kind == "folded")
    run(gpu, heads, [2, 3], 5, dtype, FP8, scale=0.5 if kind == "plain" else 0.01, folded=kind == "folded")


@settings(max_examples=8)
@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=3), page_tokens=st.integers(1, 9), kv_heads=st.integers(1, 2),
    group=st.integers(1, 3), dim=st.sampled_from([2, 10, 32]), fp8=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape(counts: list[int], page_tokens: int, kv_heads: int, group: int, dim: int, fp8: bool, seed: int) -> None:
    gpu = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    heads = Heads(kv_heads * group, kv_heads, dim, dim // 2, dim // 2)
    run(gpu, heads, counts, page_tokens, torch.float32, FP8 if fp8 else torch.float32)


def test_many_tokens_share_a_program(gpu: torch.device) -> None:
    q_norm, k_norm = weights(gpu, 128, torch.bfloat16)
    run(gpu, Heads(2, 1, 128, 64, 64, 1e-6, q_norm, k_norm), [1, 70], 16, torch.bfloat16, torch.bfloat16)


def test_far_positions_turn_precisely(gpu: torch.device) -> None:
    positions = torch.tensor([0, 1, 131_071, 262_143], device=gpu)
    frequencies = 10_000.0 ** -(torch.arange(8, device=gpu) / 8)
    cos, sin = front.angles(positions, frequencies, 1.0)
    angle = (positions.float()[:, None] * frequencies).double()
    assert torch.allclose(cos.double(), angle.cos(), atol=1e-6)
    assert torch.allclose(sin.double(), angle.sin(), atol=1e-6)


@pytest.mark.card
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(32, 8, 128), (64, 8, 64), (16, 8, 256), (16, 2, 512)])
@pytest.mark.parametrize("cache", [torch.bfloat16, FP8])
def test_large(gpu: torch.device, heads: int, kv_heads: int, dim: int, cache: torch.dtype) -> None:
    q_norm, k_norm = weights(gpu, dim, torch.bfloat16)
    kind = Heads(heads, kv_heads, dim, dim // 2, dim // 2 if dim < 512 else 64, 1e-6, q_norm, k_norm, v_norm=dim >= 256)
    for counts in ([1], [1] * 64, [1] * 30 + [3000, 500]):
        run(gpu, kind, counts, 16, torch.bfloat16, cache)
