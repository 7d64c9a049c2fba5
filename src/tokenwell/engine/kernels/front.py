"""What lies between the fused projection of queries, keys and values and attention, on accelerators, in one kernel:
norms of heads, rotation, and keys and values written to the paged cache in its own dtype.

Knows the layout of the cache (attention/spec.py) and of the page tables (run/batch.py); which layers have what is `Heads`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from tokenwell.engine.platform import accelerator

_FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Heads:
    """What a row of the fused projection holds and what becomes of it."""

    heads: int  # queries
    kv_heads: int  # keys; as many values
    head_dim: int
    half: int  # channel i rotates with i + half ...
    turning: int  # ... for i < turning
    eps: float = 0.0
    q_norm: torch.Tensor | None = None  # [head_dim]
    k_norm: torch.Tensor | None = None
    v_norm: bool = False  # values are normed, without a weight
    owns: bool = True  # the layer has keys and values; if not, the row holds queries alone
    k_eq_v: bool = False  # values are the keys before norm and rotation; the row holds them once


@triton.jit
def _angles(positions_at, frequencies_at, cos_at, sin_at, factor, count, PAIRS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    position = tl.load(positions_at + at // PAIRS, mask=inside, other=0).to(tl.float32)
    angle = position * tl.load(frequencies_at + at % PAIRS, mask=inside, other=0.0)
    tl.store(cos_at + at, tl.cos(angle) * factor, mask=inside)
    tl.store(sin_at + at, tl.sin(angle) * factor, mask=inside)


@triton.jit
def _front(  # type: ignore[no-untyped-def]
    qkv_at, qkv_stride, q_at, k_at, v_at, q_weight_at, k_weight_at, cos_at, sin_at,
    positions_at, rows_at, slots_at, table_at, table_stride,
    k_page, k_token, k_head, v_page, v_token, v_head,
    tokens, eps, k_factor, v_factor, PAGE_TOKENS,
    HEADS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr, V_FIRST: tl.constexpr, HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr, TURNING: tl.constexpr, V_NORM: tl.constexpr, FP8: tl.constexpr,
    BLOCK: tl.constexpr, TOKENS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (i, h): head h of tokens i * TOKENS ..; first come HEADS queries, then KEYS keys, then VALUES values.

    V_FIRST is the first value's place among the heads of a row: keys that nobody stores are passed over.
    """
    head = tl.program_id(1)
    token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    there = token < tokens
    channel = tl.arange(0, BLOCK)
    inside = there[:, None] & (channel < HEAD_DIM)[None, :]
    # Where a token's key or value goes. The tables are made before the step: no kernel of the step writes them.
    if VALUES > 0:
        position = tl.load(positions_at + token, mask=there, other=0)
        row = tl.load(rows_at + token, mask=there, other=0)
        slot = tl.load(slots_at + row, mask=there, other=0).to(tl.int64)
        page = tl.load(table_at + slot * table_stride + position // PAGE_TOKENS, mask=there, other=0).to(tl.int64)
        offset = position % PAGE_TOKENS
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    start = qkv_at + token[:, None] * qkv_stride
    if head < HEADS + KEYS:
        source = start + head * HEAD_DIM
        x = tl.load(source + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        index = channel % HALF
        turns = (channel < 2 * HALF) & (index < TURNING)
        first = channel < HALF
        mate = tl.where(turns, tl.where(first, channel + HALF, channel - HALF), channel)
        other = tl.load(source + mate[None, :], mask=inside, other=0.0).to(tl.float32)
        if q_weight_at is not None:
            weight_at = q_weight_at
            if k_weight_at is not None:
                if head >= HEADS:
                    weight_at = k_weight_at
            shrink = tl.rsqrt(tl.sum(x * x, 1) / HEAD_DIM + eps)[:, None]
            x *= shrink * tl.load(weight_at + channel, mask=channel < HEAD_DIM, other=0.0).to(tl.float32)[None, :]
            other *= shrink * tl.load(weight_at + mate, mask=channel < HEAD_DIM, other=0.0).to(tl.float32)[None, :]
        angle = token[:, None] * TURNING + index[None, :]
        turned = there[:, None] & turns[None, :]
        cos = tl.load(cos_at + angle, mask=turned, other=1.0)
        sin = tl.load(sin_at + angle, mask=turned, other=0.0)
        y = x * cos + other * tl.where(first[None, :], -sin, sin)
        if head < HEADS:
            place = q_at + (token[:, None] * HEADS + head) * HEAD_DIM + channel[None, :]
            tl.store(place, y.to(q_at.dtype.element_ty), mask=inside)
        elif KEYS > 0:
            place = k_at + page[:, None] * k_page + offset[:, None] * k_token + (head - HEADS) * k_head + channel[None, :]
            if FP8:
                y = tl.minimum(tl.maximum(y * k_factor, -448.0), 448.0)
            tl.store(place, y.to(k_at.dtype.element_ty), mask=inside)
    elif VALUES > 0:
        which = head - HEADS - KEYS
        v = tl.load(start + (V_FIRST + which) * HEAD_DIM + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        if V_NORM:
            v *= tl.rsqrt(tl.sum(v * v, 1) / HEAD_DIM + eps)[:, None]
        if FP8:
            v = tl.minimum(tl.maximum(v * v_factor, -448.0), 448.0)
        place = v_at + page[:, None] * v_page + offset[:, None] * v_token + which * v_head + channel[None, :]
        tl.store(place, v.to(v_at.dtype.element_ty), mask=inside)


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
    block = triton.next_power_of_2(dim)
    several = _tokens_a_program(tokens, block)
    pdl = accelerator.dependent_launch(qkv.device)
    extra: dict[str, Any] = {"launch_pdl": True} if pdl else {}
    _front[(triton.cdiv(tokens, several), heads.heads + keys + values)](
        qkv, qkv.stride(0), q, k, v, heads.q_norm, heads.k_norm, cos, sin,
        positions, token_rows, slots, table, table.stride(0),
        k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        tokens, heads.eps, 1 / k_scale, 1 / v_scale, page_tokens,
        HEADS=heads.heads, KEYS=keys, VALUES=values, V_FIRST=heads.heads + (0 if heads.k_eq_v else heads.kv_heads),
        HEAD_DIM=dim, HALF=heads.half, TURNING=heads.turning, V_NORM=heads.v_norm, FP8=v.dtype == _FP8,
        BLOCK=block, TOKENS=several, PDL=pdl, num_warps=max(1, min(4, several * block // 256)), **extra,
    )  # fmt: skip
    return q


def _tokens_a_program(tokens: int, block: int) -> int:
    """One for few tokens, whose heads alone fill the card; else so many that a program has 2048 channels to do."""
    return 1 if tokens <= 64 else max(1, 2048 // block)


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
