"""Keys and values of rows from the paged cache into plain tensors, on accelerators: what dense attention wants.

8-bit numbers become the queries' dtype, keys that are folded into values are rebuilt. The plain reference is
keys_and_values in engine/attention/reference.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.attention.spec import LayerCache
from tokenwell.engine.kernels.e4m3 import decoded, readable
from tokenwell.engine.platform import accelerator

PIECE = 128  # keys; what is gathered of a row begins at a multiple of it and ends at one, padded with zeros


@triton.jit(do_not_specialize=("kv_heads", "table_stride"))
def _gather(  # type: ignore[no-untyped-def]
    k_out_at, v_out_at, k_at, v_at, pieces_at, table_at, table_stride, weight_at, cos_at, sin_at,
    k_page, k_token, k_head, v_page, v_token, v_head, k_scale, v_scale, kv_heads,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, FOLD: tl.constexpr, HALF: tl.constexpr,
    TURNING: tl.constexpr, PAGE_TOKENS: tl.constexpr, PIECE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Program (i, h): key head h of keys i * TOKENS .."""
    head = tl.program_id(1)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    piece = pieces_at + tl.program_id(0) * TOKENS // PIECE * 4
    slot = tl.load(piece).to(tl.int64)
    position = tl.load(piece + 1) + token % PIECE
    there = (position >= tl.load(piece + 2)) & (position < tl.load(piece + 3))
    page = tl.load(table_at + slot * table_stride + position // PAGE_TOKENS, mask=there, other=0).to(tl.int64)
    offset = position % PAGE_TOKENS
    channel = tl.arange(0, DIM)
    inside = there[:, None] & (channel < HEAD_DIM)[None, :]
    out = (token.to(tl.int64) * kv_heads + head)[:, None] * DIM + channel[None, :]
    v_row = v_at + (page * v_page + offset * v_token + head * v_head)[:, None]
    v = decoded(tl.load(v_row + channel[None, :], mask=inside, other=0.0)).to(tl.float32) * v_scale
    tl.store(v_out_at + out, v.to(v_out_at.dtype.element_ty))
    if FOLD:
        index = channel % HALF
        turns = (channel < 2 * HALF) & (index < TURNING)
        first = channel < HALF
        mate = tl.where(turns, tl.where(first, channel + HALF, channel - HALF), channel)
        other = decoded(tl.load(v_row + mate[None, :], mask=inside, other=0.0)).to(tl.float32) * v_scale
        weight = tl.load(weight_at + channel, mask=channel < HEAD_DIM, other=0.0).to(tl.float32)
        mates = tl.load(weight_at + mate, mask=mate < HEAD_DIM, other=0.0).to(tl.float32)
        angle = position[:, None] * TURNING + index[None, :]
        turned = there[:, None] & turns[None, :]
        cos = tl.load(cos_at + angle, mask=turned, other=1.0).to(tl.float32)
        sin = tl.load(sin_at + angle, mask=turned, other=0.0).to(tl.float32)
        k = v * weight[None, :] * cos + other * mates[None, :] * tl.where(first[None, :], -sin, sin)
    else:
        k_row = k_at + (page * k_page + offset * k_token + head * k_head)[:, None]
        k = decoded(tl.load(k_row + channel[None, :], mask=inside, other=0.0)).to(tl.float32) * k_scale
    tl.store(k_out_at + out, k.to(k_out_at.dtype.element_ty))


def paged_gather(
    cache: LayerCache, table: torch.Tensor, page_tokens: int, pieces: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of `pieces` [pieces, 4] int32: a row's slot, the first position, and the positions from which and up to
    which the row's pages are alive.

    Each is [pieces * PIECE, kv heads, dim], dim the power of two that holds head_dim; what is not alive is zero.
    table [slots, pages] int32.
    """
    fold, tokens = cache.fold, len(pieces) * PIECE
    kv_heads, head_dim = cache.v.shape[2:]
    dim = triton.next_power_of_2(head_dim)
    k = torch.empty((tokens, kv_heads, dim), dtype=dtype, device=pieces.device)
    v = torch.empty_like(k)
    if tokens == 0:
        return k, v
    several = min(PIECE, max(1, 4096 // dim))
    keys, values = readable(cache.v if fold else cache.k), readable(cache.v)
    _gather[(tokens // several, kv_heads)](
        k, v, keys, values, pieces, table, table.stride(0), fold and fold.weight, fold and fold.cos, fold and fold.sin,
        keys.stride(0), keys.stride(1), keys.stride(2), cache.v.stride(0), cache.v.stride(1), cache.v.stride(2),
        cache.k_scale, cache.v_scale, kv_heads,
        HEAD_DIM=head_dim, DIM=dim, FOLD=fold is not None, HALF=fold.half if fold else 1,
        TURNING=fold.turning if fold else 1, PAGE_TOKENS=page_tokens, PIECE=PIECE, TOKENS=several,
        num_warps=accelerator.warps(4, pieces.device),
    )  # fmt: skip
    return k, v
