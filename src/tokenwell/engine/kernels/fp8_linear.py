"""Linear maps of some tokens whose weights and activations are e4m3, as fast as the weights can be read: y = W x + b.

For 2 to 128 tokens: with more of them torch's products are bound by arithmetic, with one `gemv` needs no matrix units. A
program multiplies some rows of W by all tokens over a part of the columns. Where there are too few rows for the processors
the columns are dealt to several programs, whose sums the reader adds, or a second kernel; they are in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.kernels.tiling import room_bytes, stages_that_fit
from tokenwell.engine.platform import accelerator

_SIZES = (16, 64, 128)  # of a tile of tokens: few, because each is compiled
MOST_TOKENS = _SIZES[-1]


@dataclass(frozen=True)
class Tiling:
    """`rows` x `columns` of W at a time, `stages` such tiles on their way; `parts` programs share the columns of a row."""

    rows: int
    columns: int
    parts: int
    warps: int
    stages: int


@triton.jit(do_not_specialize=["tokens"])
def _product(  # type: ignore[no-untyped-def]
    x_at, x_scale_at, weight_at, scales_at, bias_at, y_at, out, depth, tokens, share,
    EVEN: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """y is [parts, tokens, out]; part p is over the columns from p * share on."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    # Behind the last row and token they are computed again: cheaper than masks.
    rows = tl.minimum(row, out - 1).to(tl.int64)
    token = tl.arange(0, TOKENS)
    given = tl.minimum(token, tokens - 1)
    scales = tl.load(scales_at + rows)
    total = tl.zeros((ROWS, TOKENS), tl.float32)
    first = part * share
    last = tl.minimum(first + share, depth)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for start in tl.range(first, last, COLUMNS, num_stages=STAGES):
        column = start + tl.arange(0, COLUMNS)
        if EVEN:
            x = tl.load(x_at + given[None, :] * depth + column[:, None])
            tile = tl.load(weight_at + rows[:, None] * depth + column[None, :], eviction_policy="evict_first")
        else:
            there = column < depth
            x = tl.load(x_at + given[None, :] * depth + column[:, None], mask=there[:, None], other=0.0)
            at = weight_at + rows[:, None] * depth + column[None, :]
            tile = tl.load(at, mask=there[None, :], other=0.0, eviction_policy="evict_first")
        total = tl.dot(tile, x, total)
    total *= scales[:, None] * tl.load(x_scale_at + given)[None, :]
    if bias_at is not None:
        if part == 0:
            total += tl.load(bias_at + rows).to(tl.float32)[:, None]
    at = (part * tokens + token[None, :]).to(tl.int64) * out + row[:, None]
    tl.store(y_at + at, total.to(y_at.dtype.element_ty), mask=(row < out)[:, None] & (token < tokens)[None, :])


@triton.jit(do_not_specialize=["count", "parts"])
def _add(parts_at, y_at, count, parts, BLOCK: tl.constexpr, PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    total = tl.zeros((BLOCK,), tl.float32)
    for part in tl.range(0, parts):
        total += tl.load(parts_at + part * count + at, mask=inside, other=0.0)
    tl.store(y_at + at, total.to(y_at.dtype.element_ty), mask=inside)


def tiling(out: int, depth: int, processors: int) -> Tiling:
    """How a product of `out` rows over `depth` columns is cut: what measured best on an H200."""
    if out >= 128 * processors:
        return Tiling(128, 128, 1, 4, 4)
    tiles = triton.cdiv(out, 64)
    if 3 * tiles >= 2 * processors:  # nearly one for each processor
        return Tiling(64, 128, 1, 4, 5)
    # A part costs its readers; two programs a processor are worth it only over many columns.
    wanted = (2 if depth >= 8192 else 1) * processors // tiles
    return Tiling(64, 128, max(1, min(wanted, depth // 512, 6)), 4, 5)


def reason_not(x: Codes, weight: torch.Tensor) -> str | None:
    """Why these kernels cannot multiply x by the codes `weight`; None when they can."""
    if not 1 < len(x.codes) <= MOST_TOKENS:
        return f"{len(x.codes)} tokens; the kernels are for 2 to {MOST_TOKENS}"
    if weight.shape[1] % 16:
        return f"rows of {weight.shape[1]} bytes are not aligned"
    return None


def linear(
    x: Codes, weight: torch.Tensor, scales: torch.Tensor, *, bias: torch.Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16, tiles: Tiling | None = None, in_parts: bool = False,
) -> torch.Tensor:  # fmt: skip
    """x [tokens, in], weight [out, in] in e4m3 with scales [out] float32 -> [tokens, out]. `reason_not` must have none.

    In parts: or float32 [parts, tokens, out], which are still to be added, for a reader that does it on the way.
    """
    tokens, depth = x.codes.shape
    device = x.codes.device
    out = len(weight)
    cut = tiles or tiling(out, depth, accelerator.processors(device))
    launch = accelerator.launch(device)
    share = triton.cdiv(triton.cdiv(depth, cut.columns), cut.parts) * cut.columns
    parts = triton.cdiv(depth, share)
    size = (tokens, out) if parts == 1 else (parts, tokens, out)
    sums = torch.empty(size, dtype=dtype if parts == 1 else torch.float32, device=device)
    tile = next(size for size in _SIZES if size >= tokens)
    stages = stages_that_fit(cut.stages, (cut.rows + tile) * cut.columns, room_bytes(device))
    _product[(triton.cdiv(out, cut.rows), parts)](
        *x, weight, scales, bias, sums, out, depth, tokens, share, EVEN=depth % cut.columns == 0,
        TOKENS=tile, ROWS=cut.rows, COLUMNS=cut.columns, STAGES=stages, num_warps=accelerator.warps(cut.warps, device), **launch,
    )  # fmt: skip
    if parts == 1 or in_parts:
        return sums
    y = torch.empty((tokens, out), dtype=dtype, device=device)
    _add[(triton.cdiv(tokens * out, 1024),)](sums, y, tokens * out, parts, BLOCK=1024, **launch)
    return y


def reference(x: Codes, weight: torch.Tensor, scales: torch.Tensor, *, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`linear` in plain torch and float32."""
    y = x.dense() @ (weight.to(torch.float32) * scales[:, None]).T
    return y if bias is None else y + bias.to(torch.float32)
