"""Attention of rows with any number of queries over the paged cache (prefill), on accelerators.

The step's keys are in the cache already, so the first chunk of a prompt, a later one and a prompt behind a cached prefix are
the same arithmetic. A tile holds some consecutive queries of a row, each with all heads that share a key head: each key is read
once for all of them, and a short row fills a tile. Blocks of keys that no query of the tile sees are never touched
(the online softmax is that of Dao et al. 2022, "FlashAttention").

The plain reference is engine/attention/reference.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.kernels.e4m3 import decoded, readable
from tokenwell.engine.kernels.paged_keys import absorb, capped, key_places, load_queries, turning_keys
from tokenwell.engine.kernels.tiling import Tiling, room_bytes
from tokenwell.engine.platform import accelerator

_LOG2_E = math.log2(math.e)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    mixed, total, largest, q, q_first, q_second, low, high, position, length,
    k_at, v_at, table_at, weight_at, cos_at, sin_at, scale, cap, k_page, k_token, v_page, v_token,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, FOLD: tl.constexpr,
    HALF: tl.constexpr, TURNING: tl.constexpr, TURN: tl.constexpr, PAGE_TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """The keys from `low` up to `high`, a multiple of BLOCK apart; without MASKED every query sees all of them."""
    channel = tl.arange(0, DIM)
    inside = channel < HEAD_DIM
    for start in tl.range(low, high, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        there = keys < length
        page, offset = key_places(table_at, keys, there, PAGE_TOKENS)
        v_place = page * v_page + offset * v_token
        loaded = there[:, None] & inside[None, :] if MASKED or DIM != HEAD_DIM else None
        fill = None if loaded is None else 0.0
        if FOLD:
            v = decoded(tl.load(v_at + v_place[:, None] + channel[None, :], mask=loaded, other=fill)).to(q.dtype)
            scores = tl.dot(q, tl.trans(v), input_precision="ieee")
            k_first, k_second = turning_keys(v_at, v_place, keys, there, weight_at, cos_at, sin_at, q.dtype, HALF, TURNING, TURN)
            scores = tl.dot(q_first, tl.trans(k_first), scores, input_precision="ieee")
            scores = tl.dot(q_second, tl.trans(k_second), scores, input_precision="ieee")
        else:
            k_place = page * k_page + offset * k_token
            k = decoded(tl.load(k_at + k_place[:, None] + channel[None, :], mask=loaded, other=fill)).to(q.dtype)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")
            v = decoded(tl.load(v_at + v_place[:, None] + channel[None, :], mask=loaded, other=fill)).to(q.dtype)
        scores = capped(scores, scale, cap, CAP)
        if MASKED:
            seen = keys[None, :] <= position[:, None]
            if WINDOW > 0:
                seen = seen & (keys[None, :] > position[:, None] - WINDOW)
            # Not infinite: what a query gathers before its first visible key is finite, and that key wipes it out.
            scores = tl.where(seen, scores, -1e30)
        mixed, total, largest = absorb(mixed, total, largest, scores, v)
    return mixed, total, largest


@triton.jit(do_not_specialize=("first_row", "table_stride"))
def _prefill(  # type: ignore[no-untyped-def]
    q_at, q_stride, out_at, k_at, v_at, table_at, table_stride, slots_at, starts_at, lengths_at, sinks_at,
    weight_at, cos_at, sin_at, scale, cap, v_scale, k_page, k_token, k_head, v_page, v_token, v_head, first_row,
    QUERIES: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, WINDOW: tl.constexpr,
    CAP: tl.constexpr, FOLD: tl.constexpr, HALF: tl.constexpr, TURNING: tl.constexpr, TURN: tl.constexpr,
    PAGE_TOKENS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Program (h, r, t): tile t, counted from the last of the longest row, of row first_row + r, for key head h."""
    SPAN: tl.constexpr = TILE // QUERIES  # tokens of a tile
    head = tl.program_id(0)
    row = first_row + tl.program_id(1)
    token = (tl.num_programs(2) - 1 - tl.program_id(2)) * SPAN  # the tiles with most keys are started first
    begin = tl.load(starts_at + row)
    count = tl.load(starts_at + row + 1) - begin
    if token >= count:
        return
    length = tl.load(lengths_at + row)
    slot = tl.load(slots_at + row).to(tl.int64)
    place = tl.arange(0, TILE)
    which = token + place // QUERIES  # token of the row
    valid = (place < SPAN * QUERIES) & (which < count)
    query_head = head * QUERIES + place % QUERIES
    oldest_query = length - count + token
    position = length - count + which
    last = tl.minimum(oldest_query + SPAN, length) - 1

    channel = tl.arange(0, DIM)
    present = valid[:, None] & (channel < HEAD_DIM)[None, :]
    q_row = q_at + (begin + which).to(tl.int64)[:, None] * q_stride + query_head[:, None] * HEAD_DIM
    like: tl.constexpr = q_at.dtype.element_ty
    q, q_first, q_second = load_queries(q_row, valid, weight_at, like, HEAD_DIM, DIM, FOLD, HALF, TURNING, TURN)
    largest = tl.full([TILE], -1e30, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    if sinks_at is not None:
        largest = tl.load(sinks_at + query_head, mask=valid, other=0.0).to(tl.float32) * 1.4426950408889634
        total += 1.0
    mixed = tl.zeros([TILE, DIM], tl.float32)
    table_row = table_at + slot * table_stride
    k_at += head * k_head
    v_at += head * v_head

    # All queries of the tile see the keys from `whole` up to `edge`; only the blocks around those need masks.
    low = 0
    edge = (oldest_query + 1) // BLOCK * BLOCK
    if not APART:
        edge = low
        if WINDOW > 0:
            edge = tl.maximum(oldest_query - WINDOW + 1, 0) // BLOCK * BLOCK
    elif WINDOW > 0:
        low = tl.maximum(oldest_query - WINDOW + 1, 0) // BLOCK * BLOCK
        whole = tl.cdiv(tl.maximum(last - WINDOW + 1, 0), BLOCK) * BLOCK
        whole = tl.minimum(whole, tl.cdiv(last + 1, BLOCK) * BLOCK)
        mixed, total, largest = _attend(
            mixed, total, largest, q, q_first, q_second, low, whole, position, length,
            k_at, v_at, table_row, weight_at, cos_at, sin_at, scale, cap, k_page, k_token, v_page, v_token,
            HEAD_DIM, DIM, WINDOW, CAP, FOLD, HALF, TURNING, TURN, PAGE_TOKENS, BLOCK, True,
        )  # fmt: skip
        low = whole
        edge = tl.maximum(edge, whole)
    if APART:
        mixed, total, largest = _attend(
            mixed, total, largest, q, q_first, q_second, low, edge, position, length,
            k_at, v_at, table_row, weight_at, cos_at, sin_at, scale, cap, k_page, k_token, v_page, v_token,
            HEAD_DIM, DIM, WINDOW, CAP, FOLD, HALF, TURNING, TURN, PAGE_TOKENS, BLOCK, False,
        )  # fmt: skip
    mixed, total, largest = _attend(
        mixed, total, largest, q, q_first, q_second, edge, last + 1, position, length,
        k_at, v_at, table_row, weight_at, cos_at, sin_at, scale, cap, k_page, k_token, v_page, v_token,
        HEAD_DIM, DIM, WINDOW, CAP, FOLD, HALF, TURNING, TURN, PAGE_TOKENS, BLOCK, True,
    )  # fmt: skip
    out_row = out_at + ((begin + which).to(tl.int64) * (KV_HEADS * QUERIES) + query_head)[:, None] * HEAD_DIM
    tl.store(out_row + channel[None, :], (mixed * (v_scale / total)[:, None]).to(out_at.dtype.element_ty), mask=present)


def tiling_for(spec: AttentionSpec, most: int, room: int) -> Tiling:
    """What measured fastest on an H200 (docs/log.md) for rows of at most `most` tokens, within `room` bytes of shared memory.

    float32 has no units: small tiles.
    """
    dim = triton.next_power_of_2(spec.head_dim)
    if spec.dtype == torch.float32:
        chosen = Tiling(32, 32, 4, 2) if dim <= 256 else Tiling(16, 16, 4, 2)
    elif dim <= 64:
        chosen = Tiling(128, 64, 4, 3) if spec.window is None or spec.window > 256 else Tiling(64, 32, 4, 3, apart=False)
    elif dim <= 128:
        chosen = Tiling(128, 128, 8, 3) if most >= 4096 else Tiling(64, 64, 4, 3)
    elif dim <= 256:
        chosen = Tiling(128, 64, 8, 2)
    else:
        chosen = Tiling(64, 32, 8, 2)
    return chosen.fitted(spec.heads // spec.kv_heads, dim, spec.dtype.itemsize, room)


def paged_prefill(
    spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, table: torch.Tensor, page_tokens: int, slots: torch.Tensor,
    starts: torch.Tensor, lengths: torch.Tensor, rows: range, most: int, sinks: torch.Tensor | None, out: torch.Tensor,
    tiling: Tiling | None = None,
) -> None:  # fmt: skip
    """Attention of `rows`, neighbours, into `out` [tokens, heads, head_dim], contiguous; q has its shape.

    table [slots, pages], slots [rows], starts [rows + 1] and lengths [rows] int32; no row has more than `most` tokens. The rows'
    own keys are in the cache.
    """
    if len(rows) == 0 or most == 0:
        return
    queries, dim = spec.heads // spec.kv_heads, triton.next_power_of_2(spec.head_dim)
    chosen = tiling_for(spec, most, room_bytes(q.device)) if tiling is None else tiling
    fold = cache.fold
    scale = spec.scale * (cache.v_scale if fold else cache.k_scale)
    cap = 0.0 if spec.softcap is None else spec.softcap * _LOG2_E
    k, v = readable(cache.v if fold else cache.k), readable(cache.v)
    extra: dict[str, Any] = {"num_warps": accelerator.warps(chosen.warps, q.device), "num_stages": chosen.stages}
    _prefill[(spec.kv_heads, len(rows), triton.cdiv(most, chosen.tile // queries))](
        q, q.stride(0), out, k, v, table, table.stride(0), slots, starts, lengths, sinks,
        fold and fold.weight, fold and fold.cos, fold and fold.sin,
        scale * _LOG2_E if spec.softcap is None else scale / spec.softcap, cap, cache.v_scale,
        k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2), rows.start,
        QUERIES=queries, KV_HEADS=spec.kv_heads, HEAD_DIM=spec.head_dim, DIM=dim, WINDOW=spec.window or 0,
        CAP=spec.softcap is not None, FOLD=fold is not None, HALF=fold.half if fold else 1,
        TURNING=fold.turning if fold else 1, TURN=max(16, triton.next_power_of_2(fold.turning)) if fold else 1,
        PAGE_TOKENS=page_tokens, TILE=chosen.tile, BLOCK=chosen.block, APART=chosen.apart, **extra,
    )  # fmt: skip
