"""FP8 (e4m3) on accelerators: activations with a scale a token, and weights back to a float dtype."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.kernels.e4m3 import decoded, readable
from tokenwell.engine.platform import accelerator

_DTYPE = torch.float8_e4m3fn
_SMALLEST = 1e-30  # the largest magnitude of a token is taken to be at least this: zeros have a scale, too


@triton.jit
def _quantise_tokens(  # type: ignore[no-untyped-def]
    x_at, x_stride, codes_at, scale_at, WIDTH: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, PDL: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    if WHOLE:  # the row is held between the two passes
        x = tl.load(x_at + row * x_stride + at, mask=at < WIDTH, other=0.0).to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(x), 0), 1e-30) / 448.0
        codes = tl.minimum(tl.maximum(x / scale, -448.0), 448.0)
        tl.store(codes_at + row * WIDTH + at, codes.to(codes_at.dtype.element_ty), mask=at < WIDTH)
        tl.store(scale_at + row, scale)
    else:
        largest = tl.zeros((BLOCK,), tl.float32)
        for start in tl.range(0, WIDTH, BLOCK):
            x = tl.load(x_at + row * x_stride + start + at, mask=start + at < WIDTH, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, tl.abs(x))
        scale = tl.maximum(tl.max(largest, 0), 1e-30) / 448.0
        for start in tl.range(0, WIDTH, BLOCK):
            x = tl.load(x_at + row * x_stride + start + at, mask=start + at < WIDTH, other=0.0).to(tl.float32)
            codes = tl.minimum(tl.maximum(x / scale, -448.0), 448.0)
            tl.store(codes_at + row * WIDTH + start + at, codes.to(codes_at.dtype.element_ty), mask=start + at < WIDTH)
        tl.store(scale_at + row, scale)


@triton.jit
def _dequantise(  # type: ignore[no-untyped-def]
    codes_at, scales_at, y_at, columns, COUNT: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    codes = decoded(tl.load(codes_at + row * columns + at, mask=inside, other=0.0)).to(tl.float32)
    if GROUP == 0:
        scale = tl.load(scales_at + row)
        tl.store(y_at + row * columns + at, (codes * scale).to(y_at.dtype.element_ty), mask=inside)
    else:
        scales = tl.load(scales_at + row * COUNT + at // GROUP, mask=inside, other=0.0)
        tl.store(y_at + row * columns + at, (codes * scales).to(y_at.dtype.element_ty), mask=inside)


def quantise_tokens(x: torch.Tensor) -> Codes:
    """x [tokens, width] in e4m3, the scale of a token is its largest magnitude / 448."""
    tokens, width = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    made = Codes.empty(tokens, width, x.device)
    if tokens:
        block = min(triton.next_power_of_2(width), 16384)
        launch = accelerator.launch(x.device)
        warps = min(16, max(1, block // 512))
        _quantise_tokens[(tokens,)](x, x.stride(0), *made, width, block, block >= width, num_warps=warps, **launch)
    return made


def dequantise(codes: torch.Tensor, scales: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """e4m3 codes [rows, columns] with scales [rows] (group 0) or [rows, ceil(columns / group)] -> [rows, columns] in `dtype`."""
    rows, columns = codes.shape
    y = torch.empty((rows, columns), dtype=dtype, device=codes.device)
    if y.numel():
        block = min(triton.next_power_of_2(columns), 2048)
        count = 1 if group == 0 else scales.shape[1]
        _dequantise[(rows, triton.cdiv(columns, block))](readable(codes), scales, y, columns, count, group, block, num_warps=4)
    return y


def reference_quantise_tokens(x: torch.Tensor) -> Codes:
    """`quantise_tokens` in plain torch."""
    wide = x.to(torch.float32)
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(_SMALLEST) / 448.0
    return Codes((wide / scale).clamp(-448.0, 448.0).to(_DTYPE), scale)
