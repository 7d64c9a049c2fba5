"""4-bit weights on accelerators: products of few tokens, and weights back to a float dtype.

The layout is that of `weights.quant.int4`: of each SPAN columns, byte j has column j in its low nibble and column
j + SPAN / 2 in its high one; value = (code - zero) * scale, both for each group of columns, which spans divide.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels import gated as gated_kernels
from tokenwell.engine.kernels.gated import activate
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.quant.int4 import Int4Matrix, span

MOST_TOKENS = 16
_MOST_UNROLLED = 24  # tiles; compiling takes as long as the square of their number
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _dequantise(  # type: ignore[no-untyped-def]
    codes_at,
    scales_at,
    zeros_at,
    y_at,
    COLUMNS: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * SPANS + tl.arange(0, SPANS)
    HALF: tl.constexpr = SPAN // 2
    column = number[:, None] * SPAN + tl.arange(0, HALF)[None, :]
    inside = column < COLUMNS
    byte = number[:, None] * HALF + tl.arange(0, HALF)[None, :]
    codes = tl.load(codes_at + row * (COLUMNS // 2) + byte, mask=inside, other=0)
    group = number * SPAN // GROUP
    scale = tl.load(scales_at + row * GROUPS + group, mask=group < GROUPS, other=0.0).to(tl.float32)[:, None]
    zero = tl.full((SPANS, 1), 8.0, tl.float32)
    if zeros_at is not None:
        zero = tl.load(zeros_at + row * GROUPS + group, mask=group < GROUPS, other=0).to(tl.float32)[:, None]
    low = ((codes & 15).to(tl.float32) - zero) * scale
    high = ((codes >> 4).to(tl.float32) - zero) * scale
    tl.store(y_at + row * COLUMNS + column, low.to(y_at.dtype.element_ty), mask=inside)
    tl.store(y_at + row * COLUMNS + column + HALF, high.to(y_at.dtype.element_ty), mask=inside)


@triton.jit
def _shifted(codes, X: tl.constexpr):  # type: ignore[no-untyped-def]
    """codes of 0 to 15 plus `_shift(X)` in dtype X. 16-bit floats take the code as their last bits: no conversion needed."""
    if tl.bfloat16 == X:
        return (codes.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True)
    elif tl.float16 == X:  # noqa: RET505, one of the three is compiled
        return (codes.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True)
    else:
        return codes.to(X)


@triton.jit
def _shift(X: tl.constexpr):  # type: ignore[no-untyped-def]
    """The float whose last four bits count ones."""
    if tl.bfloat16 == X:
        return 128.0
    elif tl.float16 == X:  # noqa: RET505
        return 1024.0
    else:
        return 0.0


@triton.jit
def _followed(  # type: ignore[no-untyped-def]
    tiles, codes_at, rows, out, STEP: tl.constexpr, LEFT: tl.constexpr,
    COLUMNS: tl.constexpr, SPAN: tl.constexpr, GATED: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """tiles, then those of step STEP if LEFT columns reach it: packed codes [SPLIT, rows, SPAN / 2 bytes], gate and up if GATED.

    Weights are read once: they should not push anything else out of the cache.
    """
    CODES: tl.constexpr = codes_at.dtype.element_ty.primitive_bitwidth // 4  # in a byte or a word
    WIDTH: tl.constexpr = SPAN // CODES
    if STEP * SPLIT * SPAN < LEFT:
        for line in tl.static_range(0, 2 if GATED else 1):
            line_rows = rows + line * out
            place = (STEP * SPLIT + tl.arange(0, SPLIT))[:, None, None] * WIDTH + tl.arange(0, WIDTH)[None, None, :]
            at = codes_at + line_rows[None, :, None] * (COLUMNS // CODES) + place
            if (STEP + 1) * SPLIT * SPAN > LEFT:
                tiles = tiles + (tl.load(at, mask=place < LEFT // CODES, other=0, eviction_policy="evict_first"),)  # noqa: RUF005
            else:
                tiles = tiles + (tl.load(at, eviction_policy="evict_first"),)  # noqa: RUF005
    return tiles


@triton.jit
def _bytes(tile):  # type: ignore[no-untyped-def]
    """A tile of bytes or words as bytes."""
    if tile.dtype == tl.int32:
        tile = tl.interleave(tile.to(tl.int16), (tile >> 16).to(tl.int16))
        tile = tl.interleave(tile.to(tl.uint8), (tile >> 8).to(tl.uint8))
    return tile


@triton.jit
def _added(  # type: ignore[no-untyped-def]
    total, tile, x_low, x_high, x_sums, scales_at, zeros_at, rows, first, spans,
    LEFT: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """total [SPLIT, ROWS, TOKENS] plus the tile's product with x, scaled. `x_sums` [SPLIT, TOKENS] are over a span."""
    at = rows[None, :] * GROUPS + ((first + spans) * SPAN // GROUP)[:, None]
    mask = (spans * SPAN < LEFT)[:, None]
    scale = tl.load(scales_at + at, mask=mask, other=0.0).to(tl.float32)[:, :, None]
    zero = tl.full(scale.shape, 8.0, tl.float32)
    if zeros_at is not None:
        zero = tl.load(zeros_at + at, mask=mask, other=0).to(tl.float32)[:, :, None]
    tile = _bytes(tile)
    product = tl.dot(_shifted(tile & 15, x_low.dtype), x_low, input_precision="ieee")
    product = tl.dot(_shifted(tile >> 4, x_low.dtype), x_high, product, input_precision="ieee")
    return total + (product - (zero + _shift(x_low.dtype)) * x_sums[:, None, :]) * scale


@triton.jit
def _steps(  # type: ignore[no-untyped-def]
    y, other, tiles, x_at, x_stride, codes_at, scales_at, zeros_at, rows, out, tokens, first,
    COUNT: tl.constexpr, LEFT: tl.constexpr, FLYING: tl.constexpr,
    COLUMNS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, SPAN: tl.constexpr, GATED: tl.constexpr,
    TOKENS: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """y, other and tiles after COUNT steps from step `first` on, where LEFT columns or more are left.

    `tiles` are those of the next FLYING steps. A step asks for new ones once it has used its own, whose registers they take.
    """
    x_at += first * (SPLIT * SPAN)
    codes_at += first * (SPLIT * SPAN * 4 // codes_at.dtype.element_ty.primitive_bitwidth)
    token = tl.arange(0, TOKENS)
    HALF: tl.constexpr = SPAN // 2
    for step in tl.static_range(0, COUNT):
        spans = step * SPLIT + tl.arange(0, SPLIT)
        column = spans[:, None, None] * SPAN + tl.arange(0, HALF)[None, :, None]
        x_from = x_at + token[None, None, :] * x_stride + column
        mask = (token < tokens)[None, None, :] & (column < LEFT)
        x_low = tl.load(x_from, mask=mask, other=0.0)
        x_high = tl.load(x_from + HALF, mask=mask, other=0.0)
        x_sums = tl.sum(x_low.to(tl.float32) + x_high.to(tl.float32), 1)
        y = _added(
            y, tiles[0], x_low, x_high, x_sums, scales_at, zeros_at, rows, first * SPLIT, spans, LEFT, GROUPS, GROUP, SPAN
        )  # fmt: skip
        if GATED:
            other = _added(
                other, tiles[1], x_low, x_high, x_sums, scales_at, zeros_at, rows + out, first * SPLIT, spans,
                LEFT, GROUPS, GROUP, SPAN,
            )  # fmt: skip
        tiles = _followed(tiles[2 if GATED else 1 :], codes_at, rows, out, step + FLYING, LEFT, COLUMNS, SPAN, GATED, SPLIT)
    return y, other, tiles


@triton.jit
def _few_tokens(  # type: ignore[no-untyped-def]
    x_at, x_stride, codes_at, scales_at, zeros_at, bias_at, residual_at, residual_stride, y_at, out, tokens,
    COLUMNS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr, SPAN: tl.constexpr, GATED: tl.constexpr, GELU: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, AHEAD: tl.constexpr, ROLLED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The first ROLLED steps are a loop, the others are unrolled; `_ahead` says how many."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < out
    rows = tl.minimum(row, out - 1).to(tl.int64)
    token = tl.arange(0, TOKENS)
    FLYING: tl.constexpr = AHEAD + 1
    STEP: tl.constexpr = SPLIT * SPAN
    STEPS: tl.constexpr = (COLUMNS + STEP - 1) // STEP
    if ROLLED > 0:
        # A loop carries each element in a register of its own; cut into bytes at its end, tiles would have to have arrived.
        codes_at = codes_at.to(tl.pointer_type(tl.int32))
    # Weights do not depend on the kernel before: the first tiles travel while it ends.
    tiles = ()
    for step in tl.static_range(0, AHEAD):
        tiles = _followed(tiles, codes_at, rows, out, step, COLUMNS, COLUMNS, SPAN, GATED, SPLIT)
    y = tl.zeros((SPLIT, ROWS, TOKENS), tl.float32)
    other = tl.zeros((SPLIT, ROWS, TOKENS), tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tiles = _followed(tiles, codes_at, rows, out, AHEAD, COLUMNS, COLUMNS, SPAN, GATED, SPLIT)
    if ROLLED > 0:
        for first in tl.range(0, ROLLED, FLYING, num_stages=1):
            y, other, tiles = _steps(
                y, other, tiles, x_at, x_stride, codes_at, scales_at, zeros_at, rows, out, tokens, first,
                FLYING, 2 * FLYING * STEP, FLYING, COLUMNS, GROUPS, GROUP, SPAN, GATED, TOKENS, SPLIT,
            )  # fmt: skip
    y, other, tiles = _steps(
        y, other, tiles, x_at, x_stride, codes_at, scales_at, zeros_at, rows, out, tokens, ROLLED,
        STEPS - ROLLED, COLUMNS - ROLLED * STEP, FLYING, COLUMNS, GROUPS, GROUP, SPAN, GATED, TOKENS, SPLIT,
    )  # fmt: skip
    y = tl.sum(y, 0)
    if bias_at is not None:
        y += tl.load(bias_at + rows).to(tl.float32)[:, None]
    if GATED:
        other = tl.sum(other, 0)
        if bias_at is not None:
            other += tl.load(bias_at + rows + out).to(tl.float32)[:, None]
        y = activate(y, GELU) * other
    mask = inside[:, None] & (token < tokens)[None, :]
    if residual_at is not None:
        y += tl.load(residual_at + token[None, :] * residual_stride + row[:, None], mask=mask, other=0.0).to(tl.float32)
    tl.store(y_at + token[None, :].to(tl.int64) * out + row[:, None], y.to(y_at.dtype.element_ty), mask=mask)


def reason_not(x: torch.Tensor, matrix: Int4Matrix) -> str | None:
    """Why `linear` cannot multiply x [tokens, in] by the matrix; None when it can."""
    if not 0 < x.shape[0] <= MOST_TOKENS:
        return f"{x.shape[0]} tokens; the kernel is for 1 to {MOST_TOKENS}"
    if x.dtype not in _FLOATS:
        return f"activations in {x.dtype}"
    if (width := span(matrix.group, x.shape[1])) < 32:
        return f"{x.shape[1]} columns are packed in spans of {width}, fewer than matrix units take"
    return None


def _ahead(columns: int, step: int, lines: int, ahead: int) -> tuple[int, int]:
    """For steps of so many columns: how far ahead `_few_tokens` asks for tiles, and how many steps it makes in a loop (0: none).

    A round of the loop is as long as tiles are in flight, so that each leaves its registers to the next; what it asks for is
    whole, so at least one round's steps come after it. With two lines half as many steps are in flight: tiles fill registers.
    """
    if triton.cdiv(columns, step) * lines <= _MOST_UNROLLED:
        return ahead, 0
    flying = triton.cdiv(ahead + 1, lines)
    return flying - 1, max(0, columns // step // flying - 1) * flying


def linear(
    x: torch.Tensor, matrix: Int4Matrix, *, bias: torch.Tensor | None = None, activation: str | None = None,
    residual: torch.Tensor | None = None, rows: int = 16, split: int = 4, ahead: int = 3,
) -> torch.Tensor:  # fmt: skip
    """x [tokens, in] -> [tokens, out], for at most MOST_TOKENS; the other arguments as in `gemv.linear`."""
    if matrix.order is not None:
        x = x[:, matrix.order]
    x = x if x.stride(1) == 1 else x.contiguous()
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    tokens, columns = x.shape
    out = matrix.codes.shape[0] // 2 if activation else matrix.codes.shape[0]
    y = torch.empty((tokens, out), dtype=x.dtype, device=x.device)
    width = span(matrix.group, columns)
    ahead, rolled = _ahead(columns, split * width, 2 if activation else 1, ahead)
    launch = accelerator.launch(x.device)
    _few_tokens[(triton.cdiv(out, rows),)](
        x, x.stride(0), matrix.codes, matrix.scales, matrix.zeros, bias, residual, 0 if residual is None else residual.stride(0),
        y, out, tokens, COLUMNS=columns, GROUPS=matrix.scales.shape[1], GROUP=matrix.group or triton.next_power_of_2(columns),
        SPAN=width, GATED=activation is not None, GELU=activation == "gelu_tanh",
        TOKENS=max(accelerator.least_columns(x.device), triton.next_power_of_2(tokens)),
        ROWS=rows, SPLIT=split, AHEAD=ahead, ROLLED=rolled,
        num_warps=accelerator.warps(split, x.device), **launch,
    )  # fmt: skip
    return y


def dequantise(matrix: Int4Matrix, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows first to last of the matrix as [rows, in], columns in the matrix's own order."""
    columns, groups = 2 * matrix.codes.shape[1], matrix.scales.shape[1]
    codes, scales = matrix.codes[first:last], matrix.scales[first:last]
    zeros = None if matrix.zeros is None else matrix.zeros[first:last]
    y = torch.empty((last - first, columns), dtype=dtype, device=codes.device)
    if y.numel():
        width = span(matrix.group, columns)
        count = max(1, 2048 // width)
        _dequantise[(last - first, triton.cdiv(columns, count * width))](
            codes, scales, zeros, y, columns, groups, matrix.group or triton.next_power_of_2(columns), width, count, num_warps=4
        )
    return y


def reference(
    x: torch.Tensor, matrix: Int4Matrix, *, bias: torch.Tensor | None = None, activation: str | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """`linear` in plain torch and float32."""
    y = x.to(torch.float32) @ matrix.dense(torch.float32).T
    if bias is not None:
        y = y + bias.to(torch.float32)
    if activation is not None:
        y = gated_kernels.reference_gated(y, activation)
    return y if residual is None else y + residual.to(torch.float32)
