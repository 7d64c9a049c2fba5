"""Linear maps of few tokens on accelerators, as fast as their weights can be read: y = act(W norm(x) + b) + residual.

W is [out, in], row-major, in a float dtype or as e4m3 codes with a float32 scale for each row or each `group` columns of a
row. Everything is summed in float32. Two kernels: one multiplies and adds in registers, for one token; the other uses matrix
units. Each program owns some output rows over all of `in`, so there is nothing to reduce afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels import gated as gated_kernels
from tokenwell.engine.kernels.e4m3 import decoded, readable
from tokenwell.engine.kernels.gated import activate
from tokenwell.engine.kernels.logits import tanh
from tokenwell.engine.kernels.norms import reference_rms_norm
from tokenwell.engine.kernels.tiling import room_bytes, stages_that_fit
from tokenwell.engine.platform import accelerator

MOST_TOKENS = 16
ACTIVATIONS = gated_kernels.KINDS  # of the gated form: the upper half of W's rows is the gate, the lower half the value
_DEEP = 16384  # loops over more columns than these are unrolled in larger steps, for the compiler's sake
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)
# e4m3 becomes float16 by one instruction, bfloat16 only by way of float32. Activations in bfloat16 meet it there, times this,
# so that magnitudes from 4e-3 to 4e6 keep at least the precision that they had, and smaller ones are at most 2e-6 off.
_UNIT = 2.0**-6


@dataclass(frozen=True)
class Tiling:
    """How a product is cut: programs of `rows` rows take `split` times `columns` columns at a time and ask for `ahead` of them
    early. Of matrix units, the parts that a tile is split into go to different warps.
    """

    rows: int
    columns: int
    warps: int
    ahead: int
    split: int = 1


@triton.jit
def _capped(y, softcap, SOFTCAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """softcap * tanh(y / softcap), where there is one."""
    if SOFTCAP:
        y = softcap * tanh(y / softcap)
    return y


# ---------------------------------------------------------------- one token


@triton.jit
def _piece(weight_at, row, STEP: tl.constexpr, IN: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[COLUMNS] of one row of W as stored. Weights are read once: they should not push anything else out of the cache."""
    columns = STEP * COLUMNS + tl.arange(0, COLUMNS)
    at = weight_at + row * IN + columns
    if (STEP + 1) * COLUMNS > IN:
        return tl.load(at, mask=columns < IN, other=0.0, eviction_policy="evict_first")
    else:  # noqa: RET505, one of the two is compiled
        return tl.load(at, eviction_policy="evict_first")


@triton.jit
def _scaled(  # type: ignore[no-untyped-def]
    piece, scales_at, row, STEP: tl.constexpr, IN: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr
):
    """The piece in float32, times the scale of each group of columns where there are groups."""
    values = decoded(piece).to(tl.float32)
    if GROUP > 0:
        PER_PIECE: tl.constexpr = COLUMNS // GROUP
        COUNT: tl.constexpr = (IN + GROUP - 1) // GROUP
        groups = STEP * PER_PIECE + tl.arange(0, PER_PIECE)
        scales = tl.load(scales_at + row * COUNT + groups, mask=groups < COUNT, other=0.0)
        values = tl.reshape(tl.reshape(values, (PER_PIECE, GROUP)) * scales[:, None], (COLUMNS,))
    return values


@triton.jit
def _finish(total, factor, scales_at, bias_at, row, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """One element of W x + b from its summands."""
    y = tl.sum(total, 0) * factor
    if scales_at is not None:
        if GROUP == 0:
            y *= tl.load(scales_at + row)
    if bias_at is not None:
        y += tl.load(bias_at + row).to(tl.float32)
    return y


@triton.jit
def _norm_factor(squares, IN: tl.constexpr, eps, NORM: tl.constexpr):  # type: ignore[no-untyped-def]
    """1 / rms(x), which may as well be applied to the result."""
    if NORM:
        return tl.rsqrt(tl.sum(squares, 0) / IN + eps)
    else:  # noqa: RET505, one of the two is compiled
        return 1.0


@triton.jit
def _one_token(  # type: ignore[no-untyped-def]
    x_at, weight_at, scales_at, bias_at, norm_at, residual_at, y_at, out, eps, softcap,
    IN: tl.constexpr, GROUP: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr, NORM: tl.constexpr, SOFTCAP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # Behind the last row the last one is computed again: cheaper than masks. Row i of the program is first + i, and when
    # gated rows ROWS + i are those of the other half.
    first = (tl.program_id(0) * ROWS).to(tl.int64)
    LINES: tl.constexpr = 2 * ROWS if GATED else ROWS
    STEPS: tl.constexpr = (IN + COLUMNS - 1) // COLUMNS
    rows = ()
    for line in tl.static_range(0, LINES):
        rows = rows + (tl.minimum(first + line % ROWS, out - 1) + line // ROWS * out,)  # type: ignore[assignment]  # noqa: RUF005, compiled by Triton

    # Weights do not depend on the kernel before: the first pieces travel while it ends.
    pieces = ()
    totals = ()
    for step in tl.static_range(0, AHEAD):
        for line in tl.static_range(0, LINES):
            pieces = pieces + (_piece(weight_at, rows[line], step, IN, COLUMNS),)  # type: ignore[assignment]  # noqa: RUF005
    for _ in tl.static_range(0, LINES):
        totals = totals + (tl.zeros((COLUMNS,), tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    squares = tl.zeros((COLUMNS,), tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    for step in tl.static_range(0, STEPS):
        if step + AHEAD < STEPS:
            for line in tl.static_range(0, LINES):
                pieces = pieces + (_piece(weight_at, rows[line], step + AHEAD, IN, COLUMNS),)  # type: ignore[assignment]  # noqa: RUF005
        columns = step * COLUMNS + tl.arange(0, COLUMNS)
        x = tl.load(x_at + columns, mask=columns < IN, other=0.0).to(tl.float32)
        if NORM:
            squares += x * x
        if norm_at is not None:
            x *= tl.load(norm_at + columns, mask=columns < IN, other=0.0).to(tl.float32)
        sums = ()
        for line in tl.static_range(0, LINES):
            piece = _scaled(pieces[step * LINES + line], scales_at, rows[line], step, IN, COLUMNS, GROUP)
            sums = sums + (totals[line] + piece * x,)  # type: ignore[assignment]  # noqa: RUF005
        totals = sums

    factor = _norm_factor(squares, IN, eps, NORM)
    for line in tl.static_range(0, ROWS):
        row = rows[line]  # type: ignore[var-annotated]
        y = _finish(totals[line], factor, scales_at, bias_at, row, GROUP)
        if GATED:
            y = activate(y, GELU) * _finish(totals[ROWS + line], factor, scales_at, bias_at, rows[ROWS + line], GROUP)
        if residual_at is not None:
            y += tl.load(residual_at + row).to(tl.float32)
        tl.store(y_at + row, _capped(y, softcap, SOFTCAP).to(y_at.dtype.element_ty))


# ---------------------------------------------------------------- matrix units


@triton.jit
def _added(  # type: ignore[no-untyped-def]
    total, weight_at, scales_at, rows, columns, starts, x, IN: tl.constexpr, GROUP: tl.constexpr
):
    """total [SPLIT, rows, tokens] plus a tile of W times x [SPLIT, columns, tokens]; part i starts at column starts[i]."""
    at = weight_at + rows[None, :, None] * IN + columns[:, None, :]
    # Weights are read once: they should not push anything else out of the cache.
    tile = tl.load(at, mask=(columns < IN)[:, None, :], other=0.0, eviction_policy="evict_first")
    tile = decoded(tile).to(x.dtype)
    if GROUP == 0:
        return tl.dot(tile, x, total, input_precision="ieee")
    else:  # noqa: RET505, one of the two is compiled
        # A part of a tile lies in one group: it has one scale a row.
        COUNT: tl.constexpr = (IN + GROUP - 1) // GROUP
        group = starts // GROUP
        scale = tl.load(scales_at + rows[None, :] * COUNT + group[:, None], mask=(group < COUNT)[:, None], other=0.0)
        return total + tl.dot(tile, x, input_precision="ieee") * scale[:, :, None]


@triton.jit
def _by_units(  # type: ignore[no-untyped-def]
    x_at, x_stride, weight_at, scales_at, bias_at, residual_at, residual_stride, y_at, out, tokens, softcap, unit,
    IN: tl.constexpr, GROUP: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr, SOFTCAP: tl.constexpr, HALF: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPLIT: tl.constexpr, AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < out
    rows = tl.minimum(row, out - 1).to(tl.int64)  # behind the last row it is computed again: cheaper than masks
    token = tl.arange(0, TOKENS)
    y = tl.zeros((SPLIT, ROWS, TOKENS), tl.float32)
    other = tl.zeros((SPLIT, ROWS, TOKENS), tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for start in tl.range(0, IN, SPLIT * COLUMNS, num_stages=AHEAD):
        starts = start + tl.arange(0, SPLIT) * COLUMNS
        columns = starts[:, None] + tl.arange(0, COLUMNS)[None, :]
        at = x_at + columns[:, :, None] + token[None, None, :] * x_stride
        x = tl.load(at, mask=(columns < IN)[:, :, None] & (token < tokens)[None, None, :], other=0.0)
        if HALF:
            x = (x.to(tl.float32) * unit).to(tl.float16)
        y = _added(y, weight_at, scales_at, rows, columns, starts, x, IN, GROUP)
        if GATED:
            other = _added(other, weight_at, scales_at, rows + out, columns, starts, x, IN, GROUP)

    result = _finish_tile(tl.sum(y, 0) / unit, scales_at, bias_at, rows, GROUP)
    if GATED:
        result = activate(result, GELU) * _finish_tile(tl.sum(other, 0) / unit, scales_at, bias_at, rows + out, GROUP)
    mask = inside[:, None] & (token < tokens)[None, :]
    if residual_at is not None:
        result += tl.load(residual_at + token[None, :] * residual_stride + row[:, None], mask=mask, other=0.0).to(tl.float32)
    result = _capped(result, softcap, SOFTCAP)
    tl.store(y_at + token[None, :].to(tl.int64) * out + row[:, None], result.to(y_at.dtype.element_ty), mask=mask)


@triton.jit
def _finish_tile(y, scales_at, bias_at, rows, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """The scale of each row and the bias, for all tokens."""
    if scales_at is not None:
        if GROUP == 0:
            y *= tl.load(scales_at + rows)[:, None]
    if bias_at is not None:
        y += tl.load(bias_at + rows).to(tl.float32)[:, None]
    return y


# ---------------------------------------------------------------- choice and launch


def tiling(
    out: int, depth: int, itemsize: int, tokens: int, *, gated: bool = False, norm: bool = False, group: int = 0
) -> Tiling:
    """The cut for a product of `out` rows (of each half when gated) over `depth` columns: what measured best on an H200."""
    if tokens > 1:
        columns = min(64 if itemsize > 1 else 128, group or 128, max(16, triton.next_power_of_2(depth) // 4))
        return Tiling(
            rows=32 if out >= 16384 and not gated else 16, columns=columns, warps=4, ahead=3 if out < 8192 else 4, split=4
        )
    best = _eight_bits(out, depth, gated, norm) if itemsize == 1 else _wider(out, depth, gated, norm)
    widest = max(triton.next_power_of_2(depth), 16)
    columns = max(min(best.columns * 2 // max(2, itemsize), widest), group)
    return replace(best, columns=columns)


def _wider(out: int, depth: int, gated: bool, norm: bool) -> Tiling:
    """One token, weights of 16 bits."""
    if gated or out * depth >= 1 << 27 or out <= 512 or depth > _DEEP:
        return Tiling(2, 1024, 4, 4)
    if depth >= 8192:
        return Tiling(4, 512, 1, 2)
    if norm:
        return Tiling(2, 256, 1, 8)
    return Tiling(4 if out >= 4096 else 2, 256, 1, 4)


def _eight_bits(out: int, depth: int, gated: bool, norm: bool) -> Tiling:
    """One token, weights of 8 bits."""
    if gated and out >= 8192:
        return Tiling(1, 512, 1, 8) if depth < 4096 else Tiling(2, 1024, 2, 4)
    if out <= 512 or depth > _DEEP:
        return Tiling(2, 1024, 2, 4)
    if norm and not gated and out >= 6144:
        return Tiling(4, 512, 1, 2)
    return Tiling(4 if out >= 4096 and not gated else 2, 512, 1, 4)


def reason_not(x: torch.Tensor, weight: torch.Tensor, group: int = 0) -> str | None:
    """Why these kernels cannot multiply x [tokens, in] by `weight`; None when they can. Depends on shapes and dtypes only."""
    if not 0 < x.shape[0] <= MOST_TOKENS:
        return f"{x.shape[0]} tokens; the kernels are for 1 to {MOST_TOKENS}"
    if x.dtype not in _FLOATS or weight.dtype not in (x.dtype, torch.float8_e4m3fn):
        return f"no kernel multiplies {x.dtype} by {weight.dtype}"
    if x.dtype == torch.float32 and x.shape[0] > 1:
        return "matrix units take no float32"
    if group & (group - 1) or 0 < group < 16:
        return f"groups of {group} columns are not a power of two of at least 16"
    if weight.stride(1) != 1 or weight.stride(0) != weight.shape[1]:
        return "the weight is not a contiguous matrix"
    return None


def linear(
    x: torch.Tensor, weight: torch.Tensor, *, scales: torch.Tensor | None = None, group: int = 0,
    bias: torch.Tensor | None = None, norm: tuple[torch.Tensor | None, float] | None = None, activation: str | None = None,
    residual: torch.Tensor | None = None, softcap: float | None = None, dtype: torch.dtype | None = None,
    tiles: Tiling | None = None,
) -> torch.Tensor:  # fmt: skip
    """x [tokens, in] -> [tokens, out] in `dtype` (default: x's), which `reason_not` must have nothing against.

    weight [out, in]; `scales` [out] (group 0) or [out, ceil(in / group)] float32 belong to e4m3 codes. With `activation`
    (one of ACTIVATIONS) the weight is [2 * out, in] and the result act(first half) * second half. `norm` = (weight [in] or
    None, eps) is for one token only: x is RMS-normed first. `residual` [tokens, out] is added to the result; a soft cap is
    c * tanh(y / c).
    """
    tokens, depth = x.shape
    out = weight.shape[0] // 2 if activation else weight.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty((tokens, out), dtype=dtype or x.dtype, device=x.device)
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    cut = tiles or tiling(
        out, depth, weight.element_size(), tokens, gated=activation is not None, norm=norm is not None, group=group
    )
    codes, launch = readable(weight), accelerator.launch(x.device)
    grid = (triton.cdiv(out, cut.rows),)
    known: dict[str, Any] = {
        "IN": depth, "GROUP": group, "GATED": activation is not None, "GELU": activation == "gelu_tanh",
        "SOFTCAP": softcap is not None, "ROWS": cut.rows, "COLUMNS": cut.columns,
        "num_warps": accelerator.warps(cut.warps, x.device), **launch,
    }  # fmt: skip
    if tokens == 1:
        weights, eps = norm or (None, 0.0)
        ahead = min(cut.ahead, triton.cdiv(depth, cut.columns))
        _one_token[grid](
            x, codes, scales, bias, weights, residual, y, out, eps, softcap or 1.0, NORM=norm is not None, AHEAD=ahead, **known
        )
        return y
    if norm is not None:
        raise ValueError("only the product of one token takes a norm")
    half = x.dtype == torch.bfloat16 and weight.dtype == torch.float8_e4m3fn
    wide = max(8, accelerator.least_columns(x.device), triton.next_power_of_2(tokens))
    lines = 2 * cut.rows if activation else cut.rows
    step = cut.split * cut.columns * (lines * weight.element_size() + wide * x.element_size())
    _by_units[grid](
        x, x.stride(0), codes, scales, bias, residual, 0 if residual is None else residual.stride(0), y, out, tokens,
        softcap or 1.0, _UNIT if half else 1.0, HALF=half, TOKENS=wide, SPLIT=cut.split,
        AHEAD=stages_that_fit(cut.ahead, step, room_bytes(x.device)), **known,
    )  # fmt: skip
    return y


def reference(
    x: torch.Tensor, weight: torch.Tensor, *, scales: torch.Tensor | None = None, group: int = 0,
    bias: torch.Tensor | None = None, norm: tuple[torch.Tensor | None, float] | None = None, activation: str | None = None,
    residual: torch.Tensor | None = None, softcap: float | None = None,
) -> torch.Tensor:  # fmt: skip
    """`linear` in plain torch and float32."""
    wide = weight.to(torch.float32)
    if scales is not None:
        wide = wide * (scales[:, None] if group == 0 else scales.repeat_interleave(group, 1)[:, : weight.shape[1]])
    given = x.to(torch.float32) if norm is None else reference_rms_norm(x, *norm)
    y = given @ wide.T
    if bias is not None:
        y = y + bias.to(torch.float32)
    if activation is not None:
        y = gated_kernels.reference_gated(y, activation)
    if residual is not None:
        y = y + residual.to(torch.float32)
    return y if softcap is None else softcap * torch.tanh(y / softcap)
