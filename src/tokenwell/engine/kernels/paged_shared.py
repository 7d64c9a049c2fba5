"""Attention of many rows' single queries over keys that they share, on accelerators: read once for all of them.

Agents that ask with the same instructions and tools share the pages of that prefix. Queries of rows that share them are one
tile, as those of a prompt are, and what they find is one more split of each row, which `paged_decode` merges with the row's
own (Juravsky et al. 2024, "Hydragen"; the log-sum-exp merge of Dao et al. 2022, "FlashAttention").
"""

from __future__ import annotations

import triton
import triton.language as tl

from tokenwell.engine.attention.spec import AttentionSpec
from tokenwell.engine.kernels.paged_keys import attend_keys, load_queries
from tokenwell.engine.kernels.tiling import Tiling

MOST_SPLITS = 32
_PROGRAMS = 2  # a processor


@triton.jit
def shared_share(  # type: ignore[no-untyped-def]
    keys, splits, BLOCK: tl.constexpr
):
    """Keys a split of `keys` shared ones, and how many splits have some."""
    share = tl.cdiv(tl.maximum(tl.cdiv(keys, splits), BLOCK), BLOCK) * BLOCK
    return share, tl.cdiv(keys, share)


@triton.jit
def _tile_of(  # type: ignore[no-untyped-def]
    sets_at, tile, SETS: tl.constexpr, ROWS: tl.constexpr
):
    """Of the set whose `tile`-th or earlier tile this is: its first member of the tile, members left, keys and slot."""
    first = 0
    left = 0
    keys = 0
    slot = 0
    for index in tl.static_range(SETS):
        start = tl.load(sets_at + 4 * index)
        count = tl.load(sets_at + 4 * index + 1)
        tiles = tl.cdiv(count, ROWS)
        if (tile >= 0) & (tile < tiles):
            first = start + tile * ROWS
            left = count - tile * ROWS
            keys = tl.load(sets_at + 4 * index + 2)
            slot = tl.load(sets_at + 4 * index + 3)
        tile -= tiles
    return first, left, keys, slot


@triton.jit(do_not_specialize=("splits", "parts"))
def attend_shared(  # type: ignore[no-untyped-def]
    q_at, q_stride, k_at, v_at, table_at, table_stride, sets_at, members_at, weight_at, cos_at, sin_at, partial_at, totals_at,
    scale, cap, k_page, k_token, k_head, v_page, v_token, v_head, splits, parts,
    QUERIES: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, PACKED: tl.constexpr,
    ROWS: tl.constexpr, SETS: tl.constexpr, CAP: tl.constexpr, FOLD: tl.constexpr, HALF: tl.constexpr, TURNING: tl.constexpr,
    TURN: tl.constexpr, PAGE_TOKENS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (h, t, s): the queries of key head h in the rows of tile t over split s of their shared keys.

    `sets_at` [SETS, 4] int32: first member, members, shared keys and a slot that has them; members_at [rows] int32.
    partial [rows, kv heads, parts, QUERIES, HEAD_DIM] and totals [rows, kv heads, parts, QUERIES, 2] get the last `splits` parts.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    head = tl.program_id(0)
    split = tl.program_id(2)
    first, left, keys, slot = _tile_of(sets_at, tl.program_id(1), SETS, ROWS)
    share, _ = shared_share(keys, splits, BLOCK)
    low = split * share
    high = tl.minimum(low + share, keys)
    table_at += slot.to(tl.int64) * table_stride
    place = tl.arange(0, ROWS * PACKED)
    query = place % PACKED
    there = (place // PACKED < left) & (query < QUERIES)
    row = tl.load(members_at + first + place // PACKED, mask=there, other=0)
    if PDL:
        tl.extra.cuda.gdc_wait()
    if low < high:
        channel = tl.arange(0, DIM)
        present = there[:, None] & (channel < HEAD_DIM)[None, :]
        k_at += head * k_head
        v_at += head * v_head
        NARROW: tl.constexpr = v_at.dtype.element_ty.primitive_bitwidth == 8 and q_at.dtype.element_ty == tl.bfloat16
        like: tl.constexpr = tl.float16 if NARROW else q_at.dtype.element_ty
        q_row = q_at + (row.to(tl.int64) * q_stride + (head * QUERIES + query) * HEAD_DIM)[:, None]
        q, q_first, q_second = load_queries(q_row, there, weight_at, like, HEAD_DIM, DIM, FOLD, HALF, TURNING, TURN)
        largest = tl.full([ROWS * PACKED], -1e30, tl.float32)
        total = tl.zeros([ROWS * PACKED], tl.float32)
        mixed = tl.zeros([ROWS * PACKED, DIM], tl.float32)
        mixed, total, largest = attend_keys(
            mixed, total, largest, q, q_first, q_second, k_at, v_at, table_at, low, high, weight_at, cos_at, sin_at, like,
            scale, cap, k_page, k_token, v_page, v_token, HEAD_DIM, DIM, CAP, FOLD, HALF, TURNING, TURN, PAGE_TOKENS, BLOCK,
        )  # fmt: skip
        part = ((row * KV_HEADS + head) * parts + parts - splits + split).to(tl.int64) * QUERIES + query
        tl.store(partial_at + part[:, None] * HEAD_DIM + channel[None, :], mixed, mask=present)
        tl.store(totals_at + 2 * part, largest, mask=there)
        tl.store(totals_at + 2 * part + 1, total, mask=there)


def tiling_for(spec: AttentionSpec, itemsize: int, room: int) -> Tiling:
    """Queries and keys of a tile, whatever the batch: one compilation serves all; `itemsize` bytes a number of the cache."""
    dim = triton.next_power_of_2(spec.head_dim)
    if spec.dtype.itemsize == 4:  # no units for float32: small tiles
        chosen = Tiling(32, 16, 4, 2) if dim <= 256 else Tiling(16, 16, 4, 2)
    elif dim <= 64:
        chosen = Tiling(64, 128, 4, 2)
    elif dim <= 128:
        chosen = Tiling(64, 64, 4, 3)
    elif dim <= 256:
        chosen = Tiling(64, 64, 8, 2)
    else:
        chosen = Tiling(32, 32, 8, 2)
    return chosen.fitted(spec.heads // spec.kv_heads, dim, max(itemsize, spec.dtype.itemsize), room)


def splits_for(rows: int, kv_heads: int, rows_a_tile: int, processors: int) -> int:
    """How many programs share the keys of a tile, at most."""
    return max(1, min(MOST_SPLITS, _PROGRAMS * processors // (kv_heads * triton.cdiv(rows, rows_a_tile))))
