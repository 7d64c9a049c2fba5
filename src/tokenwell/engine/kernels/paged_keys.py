"""What the kernels of paged attention share: where a key lies, and keys that are rebuilt from values, and the online softmax.

A layer whose keys are rope(weight * value) stores values only. Only the first `turning` pairs of channels (i, i + half) turn;
for all others the weight belongs to the query, so their scores are one product with the values as they are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tokenwell.engine.kernels.e4m3 import decoded
from tokenwell.engine.kernels.logits import tanh


@triton.jit
def key_places(table_at, keys, there, PAGE_TOKENS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Page [keys] int64 and offset in it; `table_at` is the row's part of the page table."""
    page = tl.load(table_at + keys // PAGE_TOKENS, mask=there, other=0).to(tl.int64)
    return page, keys % PAGE_TOKENS


@triton.jit
def load_queries(  # type: ignore[no-untyped-def]
    q_row, there, weight_at, like, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, FOLD: tl.constexpr, HALF: tl.constexpr,
    TURNING: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Queries [queries, DIM] at q_row [queries, 1] that are there, in the dtype `like`, and both halves of what turns in them.

    Where keys are folded queries are times the weight, and zero where channels turn.
    """
    channel = tl.arange(0, DIM)
    inside = channel < HEAD_DIM
    q = tl.load(q_row + channel[None, :], mask=there[:, None] & inside[None, :], other=0.0).to(like)
    first = q
    second = q
    if FOLD:
        pair = tl.arange(0, TURN)
        turns = there[:, None] & (pair < TURNING)[None, :]
        first = tl.load(q_row + pair[None, :], mask=turns, other=0.0).to(like)
        second = tl.load(q_row + HALF + pair[None, :], mask=turns, other=0.0).to(like)
        index = channel % HALF
        still = inside & ((index >= TURNING) | (channel >= 2 * HALF))
        weight = tl.load(weight_at + channel, mask=still, other=0.0).to(tl.float32)
        q = (q.to(tl.float32) * weight[None, :]).to(q.dtype)
    return q, first, second


@triton.jit
def turning_keys(  # type: ignore[no-untyped-def]
    v_at, places, keys, there, weight_at, cos_at, sin_at, like, HALF: tl.constexpr, TURNING: tl.constexpr, TURN: tl.constexpr
):
    """Both halves [keys, TURN] of the turning channels of keys whose values are at v_at + places, in the dtype of `like`."""
    pair = tl.arange(0, TURN)
    turns = pair < TURNING
    inside = there[:, None] & turns[None, :]
    at = v_at + places[:, None] + pair[None, :]
    first = decoded(tl.load(at, mask=inside, other=0.0)).to(tl.float32)
    second = decoded(tl.load(at + HALF, mask=inside, other=0.0)).to(tl.float32)
    first *= tl.load(weight_at + pair, mask=turns, other=0.0).to(tl.float32)[None, :]
    second *= tl.load(weight_at + HALF + pair, mask=turns, other=0.0).to(tl.float32)[None, :]
    angle = keys[:, None] * TURNING + pair[None, :]
    cos = tl.load(cos_at + angle, mask=inside, other=1.0).to(tl.float32)
    sin = tl.load(sin_at + angle, mask=inside, other=0.0).to(tl.float32)
    return (first * cos - second * sin).to(like), (second * cos + first * sin).to(like)


@triton.jit
def capped(scores, scale, cap, CAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scores in units of log 2: scale and cap hold log2(e) already. With a cap, scale is the model's over the cap's."""
    if CAP:
        return cap * tanh(scores * scale)
    return scores * scale


@triton.jit
def _load_keys(  # type: ignore[no-untyped-def]
    k_at, v_at, table_at, keys, high, weight_at, cos_at, sin_at, like, k_page, k_token, v_page, v_token,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, FOLD: tl.constexpr, HALF: tl.constexpr, TURNING: tl.constexpr,
    TURN: tl.constexpr, PAGE_TOKENS: tl.constexpr,
):  # fmt: skip
    """Keys below `high` and their values [keys, DIM] in the cache's dtype; folded keys are the values, and what turns in them."""
    channel = tl.arange(0, DIM)
    there = keys < high
    loaded = there[:, None] & (channel < HEAD_DIM)[None, :]
    page, offset = key_places(table_at, keys, there, PAGE_TOKENS)
    place = page * v_page + offset * v_token
    v = tl.load(v_at + place[:, None] + channel[None, :], mask=loaded, other=0.0)
    k = v
    k_first = v
    k_second = v
    if FOLD:
        k_first, k_second = turning_keys(v_at, place, keys, there, weight_at, cos_at, sin_at, like, HALF, TURNING, TURN)
    else:
        k = tl.load(k_at + (page * k_page + offset * k_token)[:, None] + channel[None, :], mask=loaded, other=0.0)
    return k, v, k_first, k_second


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    q, q_first, q_second, k, k_first, k_second, there, scale, cap, CAP: tl.constexpr, FOLD: tl.constexpr
):
    """Scores [TILE, keys] in units of log 2; what is not there weighs nothing."""
    scores = tl.dot(q, tl.trans(decoded(k).to(q.dtype)), input_precision="ieee")
    if FOLD:
        scores = tl.dot(q_first, tl.trans(k_first), scores, input_precision="ieee")
        scores = tl.dot(q_second, tl.trans(k_second), scores, input_precision="ieee")
    return tl.where(there[None, :], capped(scores, scale, cap, CAP), -1e30)


@triton.jit
def absorb(mixed, total, largest, scores, v):  # type: ignore[no-untyped-def]
    """One block of keys into the online softmax: mixed [queries, channels], total and largest [queries], all float32.

    scores [queries, keys] are in units of log 2, v [keys, channels].
    """
    new = tl.maximum(largest, tl.max(scores, 1))
    shrink = tl.exp2(largest - new)
    weights = tl.exp2(scores - new[:, None])
    total = total * shrink + tl.sum(weights, 1)
    mixed = tl.dot(weights.to(v.dtype), v, mixed * shrink[:, None], input_precision="ieee")
    return mixed, total, new


@triton.jit
def attend_keys(  # type: ignore[no-untyped-def]
    mixed, total, largest, q, q_first, q_second, k_at, v_at, table_at, low, high, weight_at, cos_at, sin_at, like, scale, cap,
    k_page, k_token, v_page, v_token, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, CAP: tl.constexpr, FOLD: tl.constexpr,
    HALF: tl.constexpr, TURNING: tl.constexpr, TURN: tl.constexpr, PAGE_TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The keys from `low` up to `high` of a row, all of which all queries see, into the online softmax of `absorb`."""
    for start in tl.range(low, high, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        k, v, k_first, k_second = _load_keys(
            k_at, v_at, table_at, keys, high, weight_at, cos_at, sin_at, like, k_page, k_token, v_page, v_token,
            HEAD_DIM, DIM, FOLD, HALF, TURNING, TURN, PAGE_TOKENS,
        )  # fmt: skip
        scores = _scores(q, q_first, q_second, k, k_first, k_second, keys < high, scale, cap, CAP, FOLD)
        mixed, total, largest = absorb(mixed, total, largest, scores, decoded(v).to(like))
    return mixed, total, largest
