"""Attention of one query a row over the paged cache (decode), on accelerators.

One program a row, key head and split: the queries that share a key head are one tile, so each key is read once. A row's keys
are dealt to as many splits as it is worth, and a second kernel merges what they found (the log-sum-exp merge of Dao et al.
2022, "FlashAttention"). The number of programs depends on shapes only. Keys that rows share are `paged_shared`'s.

The newest key is the softmax's initial state, with the sink.

The plain reference is engine/attention/reference.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache, Shared
from tokenwell.engine.kernels import paged_shared
from tokenwell.engine.kernels.e4m3 import decoded, readable
from tokenwell.engine.kernels.paged_keys import attend_keys, capped, load_queries
from tokenwell.engine.kernels.paged_shared import shared_share
from tokenwell.engine.kernels.tiling import LEAST, room_bytes, stages_that_fit
from tokenwell.engine.platform import accelerator

_LOG2_E = math.log2(math.e)
_MOST_SPLITS = 64
_WIDTHS = (4, 16, 64, 128)  # of what is merged
_MERGED = 8192  # numbers that one program merges at most


# Numbers that change with the batch are no constants: one compilation serves all batch sizes that a model's graphs have.
_CHANGING = ("splits", "usual", "least", "parts")


@triton.jit(do_not_specialize=_CHANGING)
def _decode(  # type: ignore[no-untyped-def]
    q_at, q_stride, out_at, k_at, v_at, table_at, table_stride, slots_at, lengths_at, sinks_at,
    weight_at, cos_at, sin_at, partial_at, totals_at, shared_at,
    scale, cap, v_scale, k_page, k_token, k_head, v_page, v_token, v_head, splits, usual, least, parts,
    QUERIES: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr,
    WINDOW: tl.constexpr, CAP: tl.constexpr, FOLD: tl.constexpr, HALF: tl.constexpr, TURNING: tl.constexpr,
    TURN: tl.constexpr, PAGE_TOKENS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (h, r, s): the QUERIES queries of key head h in row r over the row's split s; SPLIT: there are several.

    partial [rows, kv heads, parts, QUERIES, HEAD_DIM] and totals [rows, kv heads, parts, QUERIES, 2] (largest score and sum) are
    float32 scratch, for rows that have more than one split or share keys: of the first `shared_at` [rows] others take care, and
    parts behind the `splits` ones are theirs.
    """
    head = tl.program_id(0)
    row = tl.program_id(1)
    split = tl.program_id(2)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    # Lengths and tables are older than the step: they may be read before anything is waited for.
    newest = tl.load(lengths_at + row) - 1
    table_at += tl.load(slots_at + row).to(tl.int64) * table_stride
    begin = 0
    if shared_at is not None:
        begin = tl.load(shared_at + row)
    oldest, share, active = _shares(newest, begin, splits, usual, least, WINDOW, BLOCK)
    low = oldest + split * share
    high = tl.minimum(low + share, newest)
    query = tl.arange(0, TILE)
    channel = tl.arange(0, DIM)
    k_at += head * k_head
    v_at += head * v_head
    # 8 bits become float16 by one instruction, bfloat16 only by a slow one more: queries meet such keys in float16.
    NARROW: tl.constexpr = v_at.dtype.element_ty.primitive_bitwidth == 8 and q_at.dtype.element_ty == tl.bfloat16
    like: tl.constexpr = tl.float16 if NARROW else q_at.dtype.element_ty
    newest_page = tl.load(table_at + newest // PAGE_TOKENS).to(tl.int64)
    if PDL:
        tl.extra.cuda.gdc_wait()
    if split < active:
        present = (query < QUERIES)[:, None] & (channel < HEAD_DIM)[None, :]
        q_row = q_at + row.to(tl.int64) * q_stride + (head * QUERIES + query)[:, None] * HEAD_DIM
        q, q_first, q_second = load_queries(q_row, query < QUERIES, weight_at, like, HEAD_DIM, DIM, FOLD, HALF, TURNING, TURN)
        largest = tl.full([TILE], -1e30, tl.float32)
        total = tl.zeros([TILE], tl.float32)
        mixed = tl.zeros([TILE, DIM], tl.float32)
        if split == 0:
            offset = newest % PAGE_TOKENS
            largest, total, mixed = _newest(
                q, q_first, q_second, k_at + newest_page * k_page + offset * k_token,
                v_at + newest_page * v_page + offset * v_token, newest, weight_at, cos_at, sin_at, scale, cap, sinks_at, head,
                QUERIES, HEAD_DIM, DIM, TILE, CAP, FOLD, HALF, TURNING, TURN,
            )  # fmt: skip
        mixed, total, largest = attend_keys(
            mixed, total, largest, q, q_first, q_second, k_at, v_at, table_at, low, high, weight_at, cos_at, sin_at, like,
            scale, cap, k_page, k_token, v_page, v_token, HEAD_DIM, DIM, CAP, FOLD, HALF, TURNING, TURN, PAGE_TOKENS, BLOCK,
        )  # fmt: skip
        which = row * KV_HEADS + head
        if (active == 1) & (begin == 0):
            out_place = out_at + (which * QUERIES + query).to(tl.int64)[:, None] * HEAD_DIM + channel[None, :]
            tl.store(out_place, (mixed * (v_scale / total)[:, None]).to(out_at.dtype.element_ty), mask=present)
        elif SPLIT:
            part = (which * parts + split) * QUERIES + query
            tl.store(partial_at + part[:, None] * HEAD_DIM + channel[None, :], mixed, mask=present)
            tl.store(totals_at + 2 * part, largest, mask=query < QUERIES)
            tl.store(totals_at + 2 * part + 1, total, mask=query < QUERIES)


@triton.jit
def _shares(  # type: ignore[no-untyped-def]
    newest, begin, splits, usual, least, WINDOW: tl.constexpr, BLOCK: tl.constexpr
):
    """The oldest key of a row, the keys a split, and how many splits have some; the newest key is the first split's.

    Keys before `begin` are others'. A row has `usual` splits, more if they would have over 2048 keys, fewer if under `least`,
    never more than `splits`.
    """
    oldest = begin
    if WINDOW > 0:
        oldest = tl.maximum(newest + 1 - WINDOW, 0)
    visible = newest - oldest
    share = tl.maximum(tl.minimum(tl.cdiv(visible, usual), 2048), tl.maximum(tl.cdiv(visible, splits), least))
    share = tl.cdiv(share, BLOCK) * BLOCK
    return oldest, share, tl.maximum(tl.cdiv(visible, share), 1)


@triton.jit
def _newest(  # type: ignore[no-untyped-def]
    q, q_first, q_second, k_at, v_at, newest, weight_at, cos_at, sin_at, scale, cap, sinks_at, head,
    QUERIES: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr, CAP: tl.constexpr,
    FOLD: tl.constexpr, HALF: tl.constexpr, TURNING: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """The softmax's state after the newest key and the sink: largest [TILE], total [TILE] and mixed [TILE, DIM]."""
    channel = tl.arange(0, DIM)
    inside = channel < HEAD_DIM
    v = decoded(tl.load(v_at + channel, mask=inside, other=0.0)).to(tl.float32)
    if FOLD:
        pair = tl.arange(0, TURN)
        turns = pair < TURNING
        first = decoded(tl.load(v_at + pair, mask=turns, other=0.0)).to(tl.float32)
        second = decoded(tl.load(v_at + HALF + pair, mask=turns, other=0.0)).to(tl.float32)
        first *= tl.load(weight_at + pair, mask=turns, other=0.0).to(tl.float32)
        second *= tl.load(weight_at + HALF + pair, mask=turns, other=0.0).to(tl.float32)
        cos = tl.load(cos_at + newest * TURNING + pair, mask=turns, other=1.0).to(tl.float32)
        sin = tl.load(sin_at + newest * TURNING + pair, mask=turns, other=0.0).to(tl.float32)
        scores = tl.sum(q.to(tl.float32) * v[None, :], 1)
        scores += tl.sum(q_first.to(tl.float32) * (first * cos - second * sin)[None, :], 1)
        scores += tl.sum(q_second.to(tl.float32) * (second * cos + first * sin)[None, :], 1)
    else:
        k = decoded(tl.load(k_at + channel, mask=inside, other=0.0)).to(tl.float32)
        scores = tl.sum(q.to(tl.float32) * k[None, :], 1)
    scores = capped(scores, scale, cap, CAP)
    largest = scores
    total = tl.full([TILE], 1.0, tl.float32)
    mixed = tl.zeros([TILE, DIM], tl.float32) + v[None, :]
    if sinks_at is not None:
        query = tl.arange(0, TILE)
        sink = tl.load(sinks_at + head * QUERIES + query, mask=query < QUERIES, other=0.0).to(tl.float32) * 1.4426950408889634
        largest = tl.maximum(scores, sink)
        total = tl.exp2(scores - largest)
        mixed *= total[:, None]
        total += tl.exp2(sink - largest)
    return largest, total, mixed


@triton.jit(do_not_specialize=_CHANGING)
def _merge(  # type: ignore[no-untyped-def]
    out_at, lengths_at, shared_at, partial_at, totals_at, v_scale, splits, usual, least, parts,
    KV_HEADS: tl.constexpr, QUERIES: tl.constexpr, HEAD_DIM: tl.constexpr, SOME: tl.constexpr, PART: tl.constexpr,
    WINDOW: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SHARED_BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (i, q, c): channels c * PART .. of queries q * SOME .. of key head i % KV_HEADS in row i // KV_HEADS.

    Only where the row has several parts, WIDTH at most.
    """
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    which = tl.program_id(0)
    query = tl.program_id(1) * SOME + tl.arange(0, SOME)
    channel = tl.program_id(2) * PART + tl.arange(0, PART)
    split = tl.arange(0, WIDTH)
    begin = 0
    if shared_at is not None:
        begin = tl.load(shared_at + which // KV_HEADS)
    _, _, active = _shares(tl.load(lengths_at + which // KV_HEADS) - 1, begin, splits, usual, least, WINDOW, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
    if (active > 1) | (begin > 0):
        there = split < active
        if shared_at is not None:
            _, others = shared_share(begin, parts - splits, SHARED_BLOCK)
            there |= (split >= splits) & (split < splits + others)
        known = there[:, None] & (query < QUERIES)[None, :]
        part = (which * parts + split).to(tl.int64)[:, None] * QUERIES + query[None, :]
        tops = tl.load(totals_at + 2 * part, mask=known, other=-1e30)
        sums = tl.load(totals_at + 2 * part + 1, mask=known, other=0.0)
        inside = known[:, :, None] & (channel < HEAD_DIM)[None, None, :]
        mixed = tl.load(partial_at + part[:, :, None] * HEAD_DIM + channel[None, None, :], mask=inside, other=0.0)
        weights = tl.exp2(tops - tl.max(tops, 0)[None, :])
        whole = tl.where(query < QUERIES, tl.sum(sums * weights, 0), 1.0)
        mixed = tl.sum(mixed * weights[:, :, None], 0) * (v_scale / whole)[:, None]
        place = out_at + (which.to(tl.int64) * QUERIES + query)[:, None] * HEAD_DIM + channel[None, :]
        tl.store(place, mixed.to(out_at.dtype.element_ty), mask=(query < QUERIES)[:, None] & (channel < HEAD_DIM)[None, :])


@dataclass(frozen=True)
class Cut:
    """How the decode kernel cuts its work."""

    splits: int  # of a row, at most
    least: int  # keys that a split has at least
    block: int  # keys at once
    warps: int
    stages: int  # depth of loads in flight
    usual: int = _MOST_SPLITS  # splits of a row, unless they would be very long

    def fitted(self, key_bytes: int, room: int) -> Cut:
        """With fewer keys at once, or fewer in flight, where shared memory has only `room` bytes for keys and their values."""
        block = self.block
        while block > LEAST and 2 * block * key_bytes > room:
            block //= 2
        return replace(self, block=block, stages=stages_that_fit(self.stages, block * key_bytes, room))


def cut_for(rows: int, kv_heads: int, dim: int, value_bytes: int, visible: int, processors: int) -> Cut:
    """What measured fastest on an H200 (docs/log.md), for rows of at most `visible` keys that a query sees."""
    few = rows * kv_heads <= processors // 2
    bytes_a_key = dim * value_bytes
    warps = 4
    if value_bytes == 1 and dim >= 256 and not few:  # bound by latency: a program for each processor, and large ones
        block, stages, programs, warps = 64, 5 if dim <= 256 else 3, 1, 8
    elif value_bytes == 4:  # no units for float32: small tiles
        block, stages, programs = max(16, min(64, 16384 // bytes_a_key)), 2, 4
    elif dim <= 64 and value_bytes == 2 and not few:
        many = rows * kv_heads > 4 * processors
        block, stages, programs, warps = 64 if many else 128, 2, 4, 2 if many and visible > 128 else 4
    elif dim <= 128:
        block, stages, programs = 32 if few else 64, 5 if bytes_a_key <= 128 and not few else 3, 4
    elif dim <= 256:
        block, stages, programs = 32 // value_bytes, 3 if few else 5, 4 if few else 2
    else:
        block, stages, programs = 32, 3, 2
    usual = max(1, min(programs * processors // (rows * kv_heads), -(-visible // block), _MOST_SPLITS))
    if visible <= 128:
        usual, block = 1, 128 if few and bytes_a_key <= 256 else block
    # So that the longest row does not end long after the others. Splits that are not used cost something, too.
    splits = max(usual, min(8, visible // 32768))
    return Cut(splits, block, block, warps, stages, usual)


def paged_decode(
    spec: AttentionSpec, q: torch.Tensor, cache: LayerCache, table: torch.Tensor, page_tokens: int,
    slots: torch.Tensor, lengths: torch.Tensor, longest: int, sinks: torch.Tensor | None, out: torch.Tensor,
    cut: Cut | None = None, shared: Shared | None = None,
) -> None:  # fmt: skip
    """Attention of q [rows, heads, head_dim], one query a row, into `out` of the same shape, which is contiguous.

    table [slots, pages], slots [rows] and lengths [rows] int32; `longest` bounds the lengths. The queries' own keys are in the
    cache. Keys that rows share, only for layers without a window, are read once for all of them.
    """
    rows = len(slots)
    if rows == 0:
        return
    device, dim = q.device, triton.next_power_of_2(spec.head_dim)
    queries = spec.heads // spec.kv_heads
    fold = cache.fold
    if cut is None:
        visible = longest if spec.window is None else min(longest, spec.window)
        processors = accelerator.processors(device)
        cut = cut_for(rows, spec.kv_heads, dim, cache.v.dtype.itemsize, visible, processors)
        held = dim * accelerator.held_bytes(cache.v.dtype.itemsize, device)
        cut = cut.fitted(held if fold else 2 * held, room_bytes(device))
    packed = triton.next_power_of_2(queries)
    together, others = None, 0
    if shared is not None:
        together = paged_shared.tiling_for(spec, cache.v.dtype.itemsize, room_bytes(device))
        others = paged_shared.splits_for(rows, spec.kv_heads, together.tile // packed, accelerator.processors(device))
    parts = cut.splits + others
    partial = totals = out
    if parts > 1:
        places = rows * spec.kv_heads * parts * queries
        partial = torch.empty(places * spec.head_dim, dtype=torch.float32, device=device)
        totals = torch.empty(2 * places, dtype=torch.float32, device=device)
    scale = spec.scale * (cache.v_scale if fold else cache.k_scale)
    scale = scale * _LOG2_E if spec.softcap is None else scale / spec.softcap
    cap = 0.0 if spec.softcap is None else spec.softcap * _LOG2_E
    k, v = readable(cache.v if fold else cache.k), readable(cache.v)
    launch = accelerator.launch(device)
    every = {"QUERIES": queries, "HEAD_DIM": spec.head_dim, **launch}
    layer = {
        "KV_HEADS": spec.kv_heads, "DIM": dim, "CAP": spec.softcap is not None, "FOLD": fold is not None,
        "HALF": fold.half if fold else 1, "TURNING": fold.turning if fold else 1,
        "TURN": max(16, triton.next_power_of_2(fold.turning)) if fold else 1, "PAGE_TOKENS": page_tokens, **every,
    }  # fmt: skip
    folded = (fold and fold.weight, fold and fold.cos, fold and fold.sin)
    strides = (k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2))
    if shared is not None and together is not None:
        tiles = triton.cdiv(rows, together.tile // packed) + len(shared.sets)
        paged_shared.attend_shared[(spec.kv_heads, tiles, others)](
            q, q.stride(0), k, v, table, table.stride(0), shared.sets, shared.members, *folded, partial, totals,
            scale, cap, *strides, others, parts,
            PACKED=packed, ROWS=together.tile // packed, SETS=len(shared.sets), BLOCK=together.block,
            num_warps=accelerator.warps(together.warps, device), num_stages=together.stages, **layer,
        )  # fmt: skip
    begins = None if shared is None else shared.keys
    _decode[(spec.kv_heads, rows, cut.splits)](
        q, q.stride(0), out, k, v, table, table.stride(0), slots, lengths, sinks, *folded, partial, totals, begins,
        scale, cap, cache.v_scale, *strides, cut.splits, cut.usual, cut.least, parts,
        TILE=max(16, packed), WINDOW=spec.window or 0, BLOCK=cut.block, SPLIT=parts > 1,
        num_warps=accelerator.warps(cut.warps, device), num_stages=cut.stages, **layer,
    )  # fmt: skip
    if parts > 1:
        part = min(dim, 128)
        width = next(width for width in _WIDTHS if width >= parts)
        some = max(1, min(packed, _MERGED // (width * part)))
        _merge[(rows * spec.kv_heads, triton.cdiv(queries, some), triton.cdiv(spec.head_dim, part))](
            out, lengths, begins, partial, totals, cache.v_scale, cut.splits, cut.usual, cut.least, parts,
            KV_HEADS=spec.kv_heads, SOME=some, PART=part, WIDTH=width, WINDOW=spec.window or 0, BLOCK=cut.block,
            SHARED_BLOCK=together.block if together else 1, num_warps=4, **every,
        )  # fmt: skip
