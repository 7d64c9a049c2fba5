"""Experts for thousands of tokens on accelerators: torch's grouped matrix products on inputs gathered by expert.

Weights in a float dtype are used as they are, MXFP4 is first written out in the compute dtype, which costs less than decoding
it in every tile, and e4m3 is multiplied in e4m3 with a scale for each row and each token. Allocates; not for recording.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels import experts_many, mxfp4
from tokenwell.engine.kernels.experts_few import KINDS, gate
from tokenwell.engine.kernels.fp8 import quantise_tokens
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.experts import ExpertMatrix


@triton.jit
def _activate(  # type: ignore[no-untyped-def]
    y_at, order_at, chosen_at, bias_at, hidden_at, scale_at, width, limit, first, experts, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    gates = tl.load(y_at + place * 2 * width + column, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(y_at + place * 2 * width + width + column, mask=inside, other=0.0).to(tl.float32)
    if bias_at is not None:
        expert = tl.load(chosen_at + tl.load(order_at + place)).to(tl.int64) - first
        known = inside & (expert >= 0) & (expert < experts)
        gates += tl.load(bias_at + expert * 2 * width + column, mask=known, other=0.0).to(tl.float32)
        values += tl.load(bias_at + expert * 2 * width + width + column, mask=known, other=0.0).to(tl.float32)
    hidden = gate(gates, values, limit, KIND)
    if scale_at is not None:
        scale = tl.maximum(tl.max(tl.abs(hidden), 0), 1e-30) / 448.0
        tl.store(scale_at + place, scale)
        hidden = tl.minimum(tl.maximum(hidden / scale, -448.0), 448.0)
    tl.store(hidden_at + place * width + column, hidden.to(hidden_at.dtype.element_ty), mask=inside)


@triton.jit
def _write_out(codes_at, scales_at, weights_at, words, COLUMNS: tl.constexpr, WORDS: tl.constexpr):  # type: ignore[no-untyped-def]
    word = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    inside = word < words
    codes = tl.load(codes_at + word, mask=inside, other=0)
    row = word // (COLUMNS // 8)
    factor = mxfp4.scale(
        tl.load(scales_at + row * mxfp4.scale_stride(COLUMNS) + word % (COLUMNS // 8) // 4, mask=inside, other=0)
    )
    values = tl.reshape(mxfp4.elements(codes[None, :]), (WORDS, 8)).to(tl.float32) * mxfp4.FACTOR * factor[:, None]
    at = word[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(weights_at + at, values.to(weights_at.dtype.element_ty), mask=inside[:, None])


def write_out(weight: ExpertMatrix, dtype: torch.dtype) -> torch.Tensor:
    """MXFP4 weights in a float dtype [experts, rows, columns]."""
    weights = torch.empty((weight.experts, weight.rows, weight.columns), dtype=dtype, device=weight.codes.device)
    words = weight.codes.numel()
    _write_out[(triton.cdiv(words, 512),)](
        weight.codes, weight.scales, weights, words, COLUMNS=weight.columns, WORDS=512, num_warps=4
    )
    return weights


@cache
def reason_not(device: torch.device, dtype: torch.dtype, weight_dtype: torch.dtype) -> str | None:
    """Why this path cannot serve activations and weights of such dtypes; None when it can."""
    if device.type != "cuda":
        return f"torch has no grouped products on a {device.type}"
    if dtype != torch.bfloat16:
        return f"torch's grouped products are in bfloat16, not in {dtype}"
    if weight_dtype == torch.float8_e4m3fn and not accelerator.fp8_units(device):
        return "this device has no units for 8-bit floats"
    name = "_scaled_grouped_mm" if weight_dtype == torch.float8_e4m3fn else "_grouped_mm"
    return None if hasattr(torch, name) else f"this torch has no {name}"


def _multiply(x: torch.Tensor, scale: torch.Tensor | None, weight: ExpertMatrix, ends: torch.Tensor) -> torch.Tensor:
    """Rows of x by expert, which end at `ends` [experts] -> [rows of x, rows of the weight] in bfloat16."""
    product: Any
    if scale is not None:
        product = torch._scaled_grouped_mm(
            x, weight.codes.mT, scale, weight.scales, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    else:
        dense = write_out(weight, x.dtype) if weight.packed else weight.codes
        product = torch._grouped_mm(x, dense.mT, offs=ends)
    result: torch.Tensor = product
    return result


def experts_grouped(
    x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, gate_up: ExpertMatrix, down: ExpertMatrix, kind: str, *,
    limit: float = 0.0, residual: torch.Tensor | None = None, dtype: torch.dtype | None = None, first: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Like `experts_few`, for many tokens of bfloat16."""
    tokens = x.shape[0]
    top, count, width = chosen.shape[1], gate_up.experts, down.columns
    chosen, share = chosen.contiguous(), share.contiguous()
    places = torch.zeros(chosen.numel(), dtype=torch.int32, device=x.device)
    order, starts = experts_many.sort(chosen, count, first, places)
    rows = order // top
    by_codes = gate_up.codes.dtype == torch.float8_e4m3fn
    scale = None
    if by_codes:
        codes, scale = quantise_tokens(x)
        inputs = codes.view(torch.uint8).index_select(0, rows).view(codes.dtype)
        scale = scale.flatten().index_select(0, rows)
    else:
        inputs = x.index_select(0, rows)
    ends = starts[1:].contiguous()
    y = _multiply(inputs, scale, gate_up, ends)
    hidden = torch.empty((tokens * top, width), dtype=down.codes.dtype if by_codes else x.dtype, device=x.device)
    scale = torch.empty(tokens * top, dtype=torch.float32, device=x.device) if by_codes else None
    block = triton.next_power_of_2(width)
    _activate[(tokens * top,)](
        y, order, chosen, gate_up.bias, hidden, scale, width, limit, first, count, KIND=KINDS[kind], BLOCK=block,
        num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    parts = _multiply(hidden, scale, down, ends)
    return experts_many.combine(
        parts, chosen, share, experts=count, first=first, places=places, bias=down.bias, residual=residual, dtype=dtype or x.dtype
    )
