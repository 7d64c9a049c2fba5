"""What lies between the fused projection of queries, keys and values and attention, on accelerators, in one kernel:
norms of heads, rotation, and keys and values written to the paged cache in its own dtype.

Knows the layout of the cache (attention/spec.py) and of the page tables (run/batch.py); what a layer has is said by `Heads`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels.e4m3 import encoded, readable
from tokenwell.engine.kernels.heads import Heads
from tokenwell.engine.platform import accelerator

_FP8 = torch.float8_e4m3fn


@triton.jit(do_not_specialize=["count"])
def _angles(positions_at, frequencies_at, cos_at, sin_at, factor, count, PAIRS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    position = tl.load(positions_at + at // PAIRS, mask=inside, other=0).to(tl.float32)
    angle = position * tl.load(frequencies_at + at % PAIRS, mask=inside, other=0.0)
    tl.store(cos_at + at, tl.cos(angle) * factor, mask=inside)
    tl.store(sin_at + at, tl.sin(angle) * factor, mask=inside)


@triton.jit
def _stored(x, factor, place, inside, FP8: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store x, in an 8-bit cache times `factor` and within what 8 bits hold."""
    if FP8:
        x = tl.minimum(tl.maximum(x * factor, -448.0), 448.0)
    if place.dtype.element_ty == tl.uint8:
        tl.store(place, encoded(x), mask=inside)
    else:
        tl.store(place, x.to(place.dtype.element_ty), mask=inside)


@triton.jit
def _turn(  # type: ignore[no-untyped-def]
    source, place, weight_at, cos_at, sin_at, token, there, factor, eps, HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr, TURNING: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Norm and rotate one query or key head from `source` to `place`, both [TOKENS, 1].

    It is read in pieces: channels [0, HALF) and [HALF, 2 * HALF), which turn together, and REST (0 if none) behind them.
    """
    i = tl.arange(0, BLOCK)
    j = 2 * HALF + tl.arange(0, REST if REST > 0 else 1)
    inside = there[:, None] & (i < HALF)[None, :]
    turned = there[:, None] & (i < TURNING)[None, :]
    behind = there[:, None] & (j < HEAD_DIM)[None, :]
    if weight_at is not None:
        first_weight = tl.load(weight_at + i, mask=i < HALF, other=0.0)[None, :]
        second_weight = tl.load(weight_at + HALF + i, mask=i < HALF, other=0.0)[None, :]
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first = tl.load(source + i[None, :], mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF + i[None, :], mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(cos_at + token[:, None] * TURNING + i[None, :], mask=turned, other=1.0)
    sin = tl.load(sin_at + token[:, None] * TURNING + i[None, :], mask=turned, other=0.0)
    if REST > 0:
        rest = tl.load(source + j[None, :], mask=behind, other=0.0).to(tl.float32)
    if weight_at is not None:
        squares = tl.sum(first * first + second * second, 1)
        if REST > 0:
            squares += tl.sum(rest * rest, 1)
        shrink = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
        first *= shrink * first_weight
        second *= shrink * second_weight
        if REST > 0:
            rest *= shrink * tl.load(weight_at + j, mask=j < HEAD_DIM, other=0.0)[None, :]
    _stored(first * cos - second * sin, factor, place + i[None, :], inside, FP8)
    _stored(second * cos + first * sin, factor, place + HALF + i[None, :], inside, FP8)
    if REST > 0:
        _stored(rest, factor, place + j[None, :], behind, FP8)


@triton.jit
def _value(  # type: ignore[no-untyped-def]
    source, place, there, factor, eps,
    HEAD_DIM: tl.constexpr, NORM: tl.constexpr, FP8: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One value head from `source` to `place`, both [TOKENS, 1]."""
    channel = tl.arange(0, BLOCK)
    inside = there[:, None] & (channel < HEAD_DIM)[None, :]
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    v = tl.load(source + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    if NORM:
        v *= tl.rsqrt(tl.sum(v * v, 1) / HEAD_DIM + eps)[:, None]
    _stored(v, factor, place + channel[None, :], inside, FP8)


@triton.jit(do_not_specialize=["tokens", "table_stride", "page_tokens"])  # one binary for all of them
def _front(  # type: ignore[no-untyped-def]
    qkv_at, qkv_stride, q_at, k_at, v_at, q_weight_at, k_weight_at, cos_at, sin_at,
    positions_at, rows_at, slots_at, table_at, table_stride,
    k_page, k_token, k_head, v_page, v_token, v_head,
    tokens, eps, k_factor, v_factor, page_tokens,
    HEADS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr, V_FIRST: tl.constexpr, HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr, TURNING: tl.constexpr, V_NORM: tl.constexpr, FP8: tl.constexpr,
    BLOCK: tl.constexpr, REST: tl.constexpr, WHOLE: tl.constexpr, TOKENS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (i, h): head h of tokens i * TOKENS ..; first come HEADS queries, then KEYS keys, then VALUES values.

    V_FIRST is the first value's place among the heads of a row: keys that nobody stores are passed over.
    """
    head = tl.program_id(1)
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    there = token < tokens
    source = qkv_at + token[:, None] * qkv_stride
    # Where a token's key or value goes. The tables are made before the step: no kernel of the step writes them.
    if VALUES > 0:
        position = tl.load(positions_at + token, mask=there, other=0).to(tl.int32)  # divided faster than 64 bits
        row = tl.load(rows_at + token, mask=there, other=0)
        slot = tl.load(slots_at + row, mask=there, other=0).to(tl.int64)
        page = tl.load(table_at + slot * table_stride + position // page_tokens, mask=there, other=0).to(tl.int64)[:, None]
        offset = (position % page_tokens)[:, None]
    if head < HEADS:
        q_place = q_at + (token[:, None] * HEADS + head) * HEAD_DIM
        _turn(
            source + head * HEAD_DIM, q_place, q_weight_at, cos_at, sin_at, token, there, 1.0, eps,
            HEAD_DIM, HALF, TURNING, False, BLOCK, REST, PDL,
        )  # fmt: skip
    elif VALUES > 0:
        if head < HEADS + KEYS:
            k_place = k_at + page * k_page + offset * k_token + (head - HEADS) * k_head
            _turn(
                source + head * HEAD_DIM, k_place, k_weight_at, cos_at, sin_at, token, there, k_factor, eps,
                HEAD_DIM, HALF, TURNING, FP8, BLOCK, REST, PDL,
            )  # fmt: skip
        else:
            which = head - HEADS - KEYS
            v_place = v_at + page * v_page + offset * v_token + which * v_head
            _value(source + (V_FIRST + which) * HEAD_DIM, v_place, there, v_factor, eps, HEAD_DIM, V_NORM, FP8, WHOLE, PDL)


def angles(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """factor * cos and sin of positions [tokens] int64 times frequencies [pairs] float32: two float32 [tokens, pairs]."""
    tokens, pairs = len(positions), len(frequencies)
    cos = torch.empty((tokens, pairs), dtype=torch.float32, device=positions.device)
    sin = torch.empty_like(cos)
    count = tokens * pairs
    if count:
        block = min(256, triton.next_power_of_2(count))
        # Launched without overlap: the kernels of the layers, which overlap, read the angles before they wait for anything.
        _angles[(triton.cdiv(count, block),)](positions, frequencies, cos, sin, factor, count, pairs, block, num_warps=4)
    return cos, sin


def front(
    qkv: torch.Tensor, heads: Heads, cos: torch.Tensor, sin: torch.Tensor,
    positions: torch.Tensor, token_rows: torch.Tensor, slots: torch.Tensor, table: torch.Tensor, page_tokens: int,
    k: torch.Tensor, v: torch.Tensor, k_scale: float = 1.0, v_scale: float = 1.0, *, folded: bool = False,
) -> torch.Tensor:  # fmt: skip
    """Rotated queries [tokens, heads, head_dim]; the keys and values of the tokens are stored.

    qkv [tokens, (heads + 2 * kv_heads) * head_dim], fewer if `heads` says so; cos and sin [tokens, turning] float32; positions
    [tokens] int64; token_rows [tokens], slots [rows] and table [slots, pages] int32; k and v [pages, page_tokens, kv heads,
    head_dim] with any strides but 1 inside a head. 8-bit caches hold value / scale, at most 448. Folded: only values are stored.
    """
    tokens, dim = len(qkv), heads.head_dim
    q = torch.empty((tokens, heads.heads, dim), dtype=qkv.dtype, device=qkv.device)
    if tokens == 0:
        return q
    values = heads.kv_heads if heads.owns else 0
    keys = 0 if folded else values
    rest = dim - 2 * heads.half
    several = _tokens_a_program(tokens, heads.heads + keys + values, dim, accelerator.processors(qkv.device))
    launch = accelerator.launch(qkv.device)
    whole = triton.next_power_of_2(dim)
    _front[(triton.cdiv(tokens, several), heads.heads + keys + values)](
        qkv, qkv.stride(0), q, readable(k), readable(v), heads.q_norm, heads.k_norm, cos, sin,
        positions, token_rows, slots, table, table.stride(0),
        k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        tokens, heads.eps, 1 / k_scale, 1 / v_scale, page_tokens,
        HEADS=heads.heads, KEYS=keys, VALUES=values, V_FIRST=heads.heads + (0 if heads.k_eq_v else heads.kv_heads),
        HEAD_DIM=dim, HALF=heads.half, TURNING=heads.turning, V_NORM=heads.v_norm, FP8=v.dtype == _FP8,
        BLOCK=triton.next_power_of_2(heads.half), REST=triton.next_power_of_2(rest) if rest else 0, WHOLE=whole,
        TOKENS=several, num_warps=max(1, min(4, several * whole // 256)), **launch,
    )  # fmt: skip
    return q


def _tokens_a_program(tokens: int, kinds: int, dim: int, processors: int) -> int:
    """So many that each processor gets a few programs, and that a program has at most 2048 channels."""
    wanted = max(1, tokens * kinds // (3 * processors))
    return min(1 << (wanted.bit_length() - 1), max(1, 2048 // triton.next_power_of_2(dim)))


def reference_angles(positions: torch.Tensor, frequencies: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`angles` in plain torch."""
    angle = positions.to(torch.float32)[:, None] * frequencies
    return angle.cos() * factor, angle.sin() * factor


def reference_front(
    qkv: torch.Tensor, heads: Heads, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """q [tokens, heads, head_dim], k and v [tokens, kv heads, head_dim] in plain torch and float32, not stored."""
    rows = qkv.to(torch.float32).unflatten(1, (-1, heads.head_dim))
    q = _rotated(_normed(rows[:, : heads.heads], heads.q_norm, heads.eps), heads, cos, sin)
    if not heads.owns:
        return q, None, None
    split = heads.heads + heads.kv_heads
    keys = rows[:, heads.heads : split]
    v = keys if heads.k_eq_v else rows[:, split : split + heads.kv_heads]
    if heads.v_norm:
        v = v * torch.rsqrt(v.square().mean(-1, keepdim=True) + heads.eps)
    return q, _rotated(_normed(keys, heads.k_norm, heads.eps), heads, cos, sin), v


def _normed(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    if weight is None:
        return x
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(torch.float32)


def _rotated(x: torch.Tensor, heads: Heads, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x[..., : heads.turning], x[..., heads.half : heads.half + heads.turning]
    cos, sin = cos[:, None], sin[:, None]
    y = x.clone()
    y[..., : heads.turning] = first * cos - second * sin
    y[..., heads.half : heads.half + heads.turning] = second * cos + first * sin
    return y
