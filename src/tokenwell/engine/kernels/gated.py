"""Gated activations on accelerators: activation(gate) * value in one pass, for products whose kernel does not do it itself."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
import triton
import triton.language as tl

from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.platform import accelerator

KINDS = ("silu", "gelu_tanh")
_WIDEST = 65536  # row that is done in 8 bits
_FEW = 256  # rows that leave processors idle


@triton.jit
def activate(x, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    """silu(x), or gelu(x) in its tanh form (Hendrycks and Gimpel 2016), in float32."""
    if GELU:
        # tanh(z) = 2 * sigmoid(2z) - 1, so gelu(x) = x * sigmoid(2z)
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)
        return x * tl.sigmoid(inner)
    return x * tl.sigmoid(x)


@triton.jit
def _gated(  # type: ignore[no-untyped-def]
    x_at, x_stride, y_at, width, GELU: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    gate = tl.load(x_at + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(x_at + row * x_stride + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_at + row * width + at, (activate(gate, GELU) * value).to(y_at.dtype.element_ty), mask=inside)


@triton.jit
def _product(x_at, x_part, at, WIDTH: tl.constexpr, PARTS: tl.constexpr, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    """activation(gate) * value at these places of one row, zero outside."""
    gate = tl.load(x_at + at, mask=at < WIDTH, other=0.0).to(tl.float32)
    value = tl.load(x_at + WIDTH + at, mask=at < WIDTH, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        gate += tl.load(x_at + part * x_part + at, mask=at < WIDTH, other=0.0).to(tl.float32)
        value += tl.load(x_at + part * x_part + WIDTH + at, mask=at < WIDTH, other=0.0).to(tl.float32)
    return activate(gate, GELU) * value


@triton.jit
def _store_codes(codes_at, y, scale, at, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    codes = tl.minimum(tl.maximum(y / scale, -448.0), 448.0)
    tl.store(codes_at + at, codes.to(codes_at.dtype.element_ty), mask=at < WIDTH)


@triton.jit
def _gated_quantised(  # type: ignore[no-untyped-def]
    x_at, x_stride, x_part, codes_at, scale_at,
    WIDTH: tl.constexpr, PARTS: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x_at += row * x_stride
    codes_at += row * WIDTH
    at = tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    y = _product(x_at, x_part, at, WIDTH, PARTS, GELU)
    largest = tl.abs(y)
    for start in tl.static_range(BLOCK, WIDTH, BLOCK):
        largest = tl.maximum(largest, tl.abs(_product(x_at, x_part, start + at, WIDTH, PARTS, GELU)))
    scale = tl.maximum(tl.max(largest, 0), 1e-30) / 448.0
    tl.store(scale_at + row, scale)
    _store_codes(codes_at, y, scale, at, WIDTH)
    # The rest of a row that is wider than a block is computed again: it is still in a near cache.
    for start in tl.static_range(BLOCK, WIDTH, BLOCK):
        _store_codes(codes_at, _product(x_at, x_part, start + at, WIDTH, PARTS, GELU), scale, start + at, WIDTH)


def gated(x: torch.Tensor, kind: str) -> torch.Tensor:
    """activation(gate) * value: [..., 2 * width] -> [..., width], the gate in the first half; `kind` is one of KINDS."""
    width = x.shape[-1] // 2
    rows = _rows(x)
    y = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    if rows.shape[0]:
        block = min(triton.next_power_of_2(width), 1024)
        launch = accelerator.launch(x.device)
        grid = (rows.shape[0], triton.cdiv(width, block))
        _gated[grid](rows, rows.stride(0), y, width, kind == "gelu_tanh", block, num_warps=4, **launch)
    return y


def quantised_reason_not(width: int) -> str | None:
    """Why `gated_quantised` cannot serve rows of `width`; None when it can."""
    return None if width <= _WIDEST else f"a row of {width} is longer than {_WIDEST}, and its loop is written out"


def gated_quantised(x: torch.Tensor, kind: str) -> Codes:
    """`gated` of x [tokens, 2 * width], or of the sum of [parts, tokens, 2 * width], in e4m3."""
    width = x.shape[-1] // 2
    rows = x if x.dim() == 3 and x.is_contiguous() else _rows(x)
    tokens, parts = rows.shape[-2], len(rows) if rows.dim() == 3 else 1
    made = Codes.empty(tokens, width, x.device)
    if tokens:
        # A few rows are done at once by many threads, many rows piece by piece, so that several fit on a processor.
        block = min(triton.next_power_of_2(width), 16384 if tokens <= _FEW else 2048)
        launch = accelerator.launch(x.device)
        warps = min(32, max(1, block // 512))
        _gated_quantised[(tokens,)](
            rows, rows.stride(-2), rows.stride(0), *made, width, parts, kind == "gelu_tanh", block, num_warps=warps, **launch
        )
    return made


def _rows(x: torch.Tensor) -> torch.Tensor:
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def reference_gated(x: torch.Tensor, kind: str) -> torch.Tensor:
    """`gated` in plain torch, in float32."""
    gate, value = x.to(torch.float32).chunk(2, dim=-1)
    activation = functional.silu(gate) if kind == "silu" else functional.gelu(gate, approximate="tanh")
    return activation * value
