"""Experts for a few tokens on accelerators: every slot (a token and one of its experts) reads its expert's weights by itself.

Nothing is sorted or padded: at this size nearly every slot has an expert of its own, and the weights' bytes are the time.
Two kernels: gate and up with the gated activation [slots, width], then down with the sum over a token's experts [tokens, dim].
Everything is summed in float32, always in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels import mxfp4
from tokenwell.engine.kernels.e4m3 import decoded, readable
from tokenwell.engine.kernels.gated import activate
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.experts import ExpertMatrix

KINDS = {"silu": 0, "gelu_tanh": 1, "swiglu_clamped": 2}  # of the gated activation
ALPHA = tl.constexpr(1.702)  # of the clamped form's sigmoid (gpt-oss)


@dataclass(frozen=True)
class Tiling:
    """`rows` x `columns` of a weight at a time, by so many warps."""

    rows: int
    columns: int
    warps: int


@triton.jit
def gate(x, value, limit, KIND: tl.constexpr):  # type: ignore[no-untyped-def]
    """The gated activation of a gate and a value in float32; KIND 2 is gpt-oss's clamped form."""
    if KIND == 2:
        x = tl.minimum(x, limit)
        value = tl.minimum(tl.maximum(value, -limit), limit)
        return (value + 1.0) * x * tl.sigmoid(ALPHA * x)
    else:  # noqa: RET505, one of the two is compiled
        return activate(x, KIND == 1) * value


@triton.jit
def _multiply(  # type: ignore[no-untyped-def]
    x_at, x_inside, weight_at, scales_at, lines, inside, IN: tl.constexpr, PACKED: tl.constexpr, COLUMNS: tl.constexpr
):
    """Lines [A, R] (numbers of rows of IN columns) times inputs at x_at [A or 1] -> [A, R] in float32.

    Scales of e4m3 rows are left to the caller.
    """
    A: tl.constexpr = lines.shape[0]
    R: tl.constexpr = lines.shape[1]
    if PACKED:
        WORDS: tl.constexpr = COLUMNS // 8
        total = tl.zeros((A, R, WORDS // 4), tl.float32)
        for start in tl.static_range(0, IN, COLUMNS):
            at = start // 8 + tl.arange(0, WORDS)
            codes = tl.load(
                weight_at + lines[:, :, None] * (IN // 8) + at[None, None, :],
                mask=inside[:, :, None] & (at < IN // 8)[None, None, :], other=0, eviction_policy="evict_first",
            )  # fmt: skip
            block = start // 32 + tl.arange(0, WORDS // 4)
            powers = tl.load(
                scales_at + lines[:, :, None] * mxfp4.scale_stride(IN) + block[None, None, :],
                mask=inside[:, :, None] & (block < IN // 32)[None, None, :], other=0,
            )  # fmt: skip
            column = start + tl.arange(0, COLUMNS)
            x = tl.load(x_at[:, None] + column[None, :], mask=x_inside[:, None] & (column < IN)[None, :], other=0.0)
            x0, x1, x2, x3, x4, x5, x6, x7 = mxfp4.split_inputs(x)
            sums = mxfp4.element(codes, 0).to(tl.float32) * x0[:, None, :]
            sums += mxfp4.element(codes, 1).to(tl.float32) * x1[:, None, :]
            sums += mxfp4.element(codes, 2).to(tl.float32) * x2[:, None, :]
            sums += mxfp4.element(codes, 3).to(tl.float32) * x3[:, None, :]
            sums += mxfp4.element(codes, 4).to(tl.float32) * x4[:, None, :]
            sums += mxfp4.element(codes, 5).to(tl.float32) * x5[:, None, :]
            sums += mxfp4.element(codes, 6).to(tl.float32) * x6[:, None, :]
            sums += mxfp4.element(codes, 7).to(tl.float32) * x7[:, None, :]
            total += tl.sum(tl.reshape(sums, (A, R, WORDS // 4, 4)), 3) * mxfp4.scale(powers)
        return tl.sum(total, 2) * mxfp4.FACTOR
    else:  # noqa: RET505
        wide = tl.zeros((A, R, COLUMNS), tl.float32)
        for start in tl.static_range(0, IN, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            here = (column < IN)[None, None, :]
            weight = tl.load(
                weight_at + lines[:, :, None] * IN + column[None, None, :], mask=inside[:, :, None] & here, other=0.0,
                eviction_policy="evict_first",
            )  # fmt: skip
            x = tl.load(x_at[:, None] + column[None, :], mask=x_inside[:, None] & (column < IN)[None, :], other=0.0)
            wide += decoded(weight).to(tl.float32) * x.to(tl.float32)[:, None, :]
        return tl.sum(wide, 2)


@triton.jit
def _gate_up(  # type: ignore[no-untyped-def]
    x_at, x_stride, chosen_at, weight_at, scales_at, bias_at, hidden_at, width, limit, first, experts,
    IN: tl.constexpr, TOP: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    half = tl.arange(0, 2)[:, None]
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    expert = tl.load(chosen_at + slot).to(tl.int64) - first
    mine = (expert >= 0) & (expert < experts)
    inside = mine & (row < width)[None, :] & (half >= 0)
    lines = (expert * 2 + half) * width + row[None, :]
    x_line = x_at + (slot // TOP).to(tl.int64) * x_stride + tl.zeros((1,), tl.int64)
    y = _multiply(x_line, tl.full((1,), 1, tl.int1), weight_at, scales_at, lines, inside, IN, PACKED, COLUMNS)
    if scales_at is not None:
        if not PACKED:
            y *= tl.load(scales_at + lines, mask=inside, other=0.0)
    if bias_at is not None:
        y += tl.load(bias_at + lines, mask=inside, other=0.0).to(tl.float32)
    gates, values = tl.split(tl.trans(y))
    hidden = gate(gates, values, limit, KIND)
    tl.store(hidden_at + slot.to(tl.int64) * width + row, hidden.to(hidden_at.dtype.element_ty), mask=row < width)


@triton.jit
def _down(  # type: ignore[no-untyped-def]
    hidden_at, chosen_at, share_at, weight_at, scales_at, bias_at, residual_at, residual_stride, y_at, dim, first, experts,
    IN: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr, PACKED: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.arange(0, SLOTS)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    expert = tl.load(chosen_at + token * TOP + slot, mask=slot < TOP, other=first).to(tl.int64) - first
    mine = (slot < TOP) & (expert >= 0) & (expert < experts)
    share = tl.load(share_at + token * TOP + slot, mask=mine, other=0.0).to(tl.float32)
    inside = mine[:, None] & (row < dim)[None, :]
    lines = expert[:, None] * dim + row[None, :]
    y = _multiply(hidden_at + (token * TOP + slot) * IN, mine, weight_at, scales_at, lines, inside, IN, PACKED, COLUMNS)
    if scales_at is not None:
        if not PACKED:
            y *= tl.load(scales_at + lines, mask=inside, other=0.0)
    if bias_at is not None:
        y += tl.load(bias_at + lines, mask=inside, other=0.0).to(tl.float32)
    total = tl.sum(y * share[:, None], 0)
    if residual_at is not None:
        total += tl.load(residual_at + token * residual_stride + row, mask=row < dim, other=0.0).to(tl.float32)
    tl.store(y_at + token * dim + row, total.to(y_at.dtype.element_ty), mask=row < dim)


def tiling(weight: ExpertMatrix) -> Tiling:
    """How a weight is cut."""
    if weight.packed:
        return Tiling(rows=8, columns=512, warps=4)
    if weight.codes.element_size() == 1:
        return Tiling(rows=8, columns=256, warps=4)
    return Tiling(rows=4, columns=512 // weight.codes.element_size(), warps=2)


def experts_few(
    x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, gate_up: ExpertMatrix, down: ExpertMatrix, kind: str, *,
    limit: float = 0.0, residual: torch.Tensor | None = None, dtype: torch.dtype | None = None, first: int = 0,
    tiles: tuple[Tiling, Tiling] | None = None,
) -> torch.Tensor:  # fmt: skip
    """x [tokens, dim], chosen [tokens, k] ids and their shares -> the weighted sum [tokens, dim], plus `residual` if given.

    `kind` is one of KINDS, `limit` belongs to its clamped form. The weights are those of experts `first` and up; slots of
    others add nothing.
    """
    tokens, dim = x.shape
    top = chosen.shape[1]
    width = gate_up.rows // 2
    x = x if x.stride(1) == 1 else x.contiguous()
    chosen, share = chosen.contiguous(), share.contiguous()
    hidden = torch.empty((tokens * top, width), dtype=x.dtype, device=x.device)
    y = torch.empty((tokens, dim), dtype=dtype or x.dtype, device=x.device)
    launch = accelerator.launch(x.device)
    one, two = tiles or (tiling(gate_up), tiling(down))
    count = gate_up.codes.shape[0]
    _gate_up[(triton.cdiv(width, one.rows), tokens * top)](
        x, x.stride(0), chosen, readable(gate_up.codes), gate_up.scales, gate_up.bias, hidden, width, limit, first, count,
        IN=dim, TOP=top, KIND=KINDS[kind], PACKED=gate_up.packed, ROWS=one.rows, COLUMNS=one.columns,
        num_warps=accelerator.warps(one.warps, x.device), **launch,
    )  # fmt: skip
    _down[(triton.cdiv(dim, two.rows), tokens)](
        hidden, chosen, share, readable(down.codes), down.scales, down.bias, residual,
        0 if residual is None else residual.stride(0), y, dim, first, count, IN=width, TOP=top,
        SLOTS=triton.next_power_of_2(top), PACKED=down.packed, ROWS=two.rows, COLUMNS=two.columns,
        num_warps=accelerator.warps(two.warps, x.device), **launch,
    )  # fmt: skip
    return y
