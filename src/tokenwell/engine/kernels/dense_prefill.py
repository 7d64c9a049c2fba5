"""Attention of rows with many queries over keys and values in plain tensors (prefill), on accelerators.

A tile holds consecutive queries of a row, each with all heads that share a key head, so that every key is read once for all of
them. The host lists the tiles, those with most keys first. Blocks of keys are loaded through tensor descriptors, which need no
addresses or masks of threads where the hardware copies by itself. Values are multiplied one block late: matrix units work on
them while the exponentials of the next block are taken, as in FlashAttention-3 (Shah et al. 2024, section 3.2).

The plain reference is engine/attention/reference.py; paged_gather makes the tensors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tokenwell.engine.attention.spec import AttentionSpec
from tokenwell.engine.kernels.tiling import Tiling
from tokenwell.engine.platform import accelerator

_LOG2_E = math.log2(math.e)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    mixed, total, largest, weights, shrink, q, k, v, base, column, column_of_v, first, low, high, position, scale, cap,
    WINDOW: tl.constexpr, CAP: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr, LATE: tl.constexpr,
):  # fmt: skip
    """The keys from `low` up to `high`, a multiple of BLOCK apart; without MASKED every query sees all of them."""
    for start in tl.range(low, high, BLOCK):
        scores = tl.dot(q, tl.trans(k.load([base + start, column])), input_precision="ieee")
        if LATE:
            before = tl.maximum(start - BLOCK, first)
            mixed = tl.dot(
                weights.to(q.dtype), v.load([base + before, column_of_v]), mixed * shrink[:, None], input_precision="ieee"
            )
        if CAP:
            scores = cap * (2.0 * tl.sigmoid(2.0 * scores * scale) - 1.0)
        elif MASKED:
            scores = scores * scale
        if MASKED:
            keys = start + tl.arange(0, BLOCK)
            seen = keys[None, :] <= position[:, None]
            if WINDOW > 0:
                seen = seen & (keys[None, :] > position[:, None] - WINDOW)
            # Not infinite: what a query gathers before its first visible key is finite, and that key wipes it out.
            scores = tl.where(seen, scores, -1e30)
        if CAP or MASKED:
            new = tl.maximum(largest, tl.max(scores, 1))
            powers = tl.exp2(scores - new[:, None])
        else:  # one operation less for every score
            new = tl.maximum(largest, tl.max(scores, 1) * scale)
            powers = tl.exp2(scores * scale - new[:, None])
        shrink = tl.exp2(largest - new)
        total = total * shrink + tl.sum(powers, 1)
        weights = powers
        largest = new
        if not LATE:
            mixed = tl.dot(
                weights.to(q.dtype), v.load([base + start, column_of_v]), mixed * shrink[:, None], input_precision="ieee"
            )
    return mixed, total, largest, weights, shrink


@triton.jit(do_not_specialize=("kv_heads",))
def _dense(  # type: ignore[no-untyped-def]
    q_at, q_stride, out_at, out_stride, k, v, tiles_at, sinks_at, scale, cap, kv_heads,
    QUERIES: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, MIX: tl.constexpr,
    WINDOW: tl.constexpr, CAP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, LATE: tl.constexpr,
    APART: tl.constexpr,
):  # fmt: skip
    """Program i: a tile for one key head and MIX channels of its values."""
    SPAN: tl.constexpr = TILE // QUERIES  # tokens of a tile
    SHARES: tl.constexpr = DIM // MIX
    share = tl.program_id(0) % SHARES
    head = tl.program_id(0) // SHARES % kv_heads
    tile = tiles_at + tl.program_id(0) // (SHARES * kv_heads) * 4
    token, count, oldest, base = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    place = tl.arange(0, TILE)
    which = place // QUERIES
    valid = (place < SPAN * QUERIES) & (which < count)
    query_head = head * QUERIES + place % QUERIES
    position = oldest + which
    end = oldest + count
    column = head * DIM
    column_of_v = column + share * MIX

    channel = tl.arange(0, DIM)
    present = valid[:, None] & (channel < HEAD_DIM)[None, :]
    row = (token + which).to(tl.int64)
    q = tl.load(q_at + (row * q_stride + query_head * HEAD_DIM)[:, None] + channel[None, :], mask=present, other=0.0)
    largest = tl.full([TILE], -1e30, tl.float32)
    total = tl.zeros([TILE], tl.float32)
    if sinks_at is not None:
        largest = tl.load(sinks_at + query_head, mask=valid, other=0.0).to(tl.float32) * 1.4426950408889634
        total += 1.0
    mixed = tl.zeros([TILE, MIX], tl.float32)
    weights = tl.zeros([TILE, BLOCK], tl.float32)
    shrink = tl.full([TILE], 1.0, tl.float32)

    # All queries of the tile see the keys from `whole` up to `edge`; only the blocks around those need masks.
    low = 0
    if WINDOW > 0:
        low = tl.maximum(oldest - WINDOW + 1, 0) // BLOCK * BLOCK
    first = low
    edge = low
    if APART:
        edge = (oldest + 1) // BLOCK * BLOCK
        if WINDOW > 0:
            whole = tl.cdiv(tl.maximum(end - WINDOW, 0), BLOCK) * BLOCK
            whole = tl.minimum(whole, tl.cdiv(end, BLOCK) * BLOCK)
            mixed, total, largest, weights, shrink = _attend(
                mixed, total, largest, weights, shrink, q, k, v, base, column, column_of_v, first, low, whole, position, scale,
                cap, WINDOW, CAP, BLOCK, True, LATE,
            )  # fmt: skip
            low = whole
            edge = tl.maximum(edge, whole)
        mixed, total, largest, weights, shrink = _attend(
            mixed, total, largest, weights, shrink, q, k, v, base, column, column_of_v, first, low, edge, position, scale, cap,
            WINDOW, CAP, BLOCK, False, LATE,
        )  # fmt: skip
    mixed, total, largest, weights, shrink = _attend(
        mixed, total, largest, weights, shrink, q, k, v, base, column, column_of_v, first, edge, end, position, scale, cap,
        WINDOW, CAP, BLOCK, True, LATE,
    )  # fmt: skip
    if LATE:
        last = (end - 1) // BLOCK * BLOCK
        mixed = tl.dot(weights.to(q.dtype), v.load([base + last, column_of_v]), mixed * shrink[:, None], input_precision="ieee")
    out_channel = share * MIX + tl.arange(0, MIX)
    out = out_at + (row * out_stride + query_head * HEAD_DIM)[:, None] + out_channel[None, :]
    wanted = valid[:, None] & (out_channel < HEAD_DIM)[None, :]
    tl.store(out, (mixed / total[:, None]).to(out_at.dtype.element_ty), mask=wanted)


def tiling_for(spec: AttentionSpec, room: int) -> Tiling:
    """What measured fastest on an H200 (docs/log.md), within `room` bytes of shared memory; float32 has no units: small tiles."""
    dim = triton.next_power_of_2(spec.head_dim)
    if spec.dtype == torch.float32:
        chosen = Tiling(32, 32, 4, 2) if dim <= 256 else Tiling(16, 16, 4, 2)
    elif dim <= 64 and spec.window is not None and spec.window <= 256:
        chosen = Tiling(64, 32, 4, 3, apart=False)
    elif dim <= 64:
        chosen = Tiling(64, 128, 4, 2)
    elif dim <= 128:
        chosen = Tiling(64, 64, 4, 3, late=True)
    elif dim <= 256:
        chosen = Tiling(128, 64, 8, 2, late=True)
    else:
        chosen = Tiling(128, 32, 8, 2, late=True, shares=2)
    return chosen.fitted(spec.heads // spec.kv_heads, dim, spec.dtype.itemsize, room)


def dense_prefill(
    spec: AttentionSpec, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: torch.Tensor, sinks: torch.Tensor | None,
    out: torch.Tensor, tiling: Tiling,
) -> None:  # fmt: skip
    """Attention of the queries of all `tiles` into `out`, which like q is [tokens, heads, head_dim], each token's contiguous.

    k, v [keys, kv heads, dim], contiguous, dim a power of two of at least head_dim, zero beyond it. tiles [tiles, 4] int32, each
    of at most tiling.tile * kv heads / heads tokens: the first token, how many, the position of the first, and the index among
    the keys of position 0 of its row (below zero where a window hides the first ones). What lies behind a row's last key, up
    to a block, is finite.
    """
    if len(tiles) == 0:
        return
    rows, width, dim = len(k), k.stride(0), k.shape[2]
    keys = TensorDescriptor(k, [rows, width], [width, 1], [tiling.block, dim])
    values = TensorDescriptor(v, [rows, width], [width, 1], [tiling.block, dim // tiling.shares])
    extra: dict[str, Any] = {"num_warps": accelerator.warps(tiling.warps, q.device), "num_stages": tiling.stages}
    _dense[(len(tiles) * spec.kv_heads * tiling.shares,)](
        q, q.stride(0), out, out.stride(0), keys, values, tiles, sinks,
        spec.scale * _LOG2_E if spec.softcap is None else spec.scale / spec.softcap,
        0.0 if spec.softcap is None else spec.softcap * _LOG2_E, spec.kv_heads,
        QUERIES=spec.heads // spec.kv_heads, HEAD_DIM=spec.head_dim, DIM=dim, MIX=dim // tiling.shares, WINDOW=spec.window or 0,
        CAP=spec.softcap is not None, TILE=tiling.tile, BLOCK=tiling.block, LATE=tiling.late,
        APART=tiling.apart, **extra,
    )  # fmt: skip
