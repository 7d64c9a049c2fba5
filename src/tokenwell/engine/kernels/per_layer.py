"""Gemma's per-layer inputs on accelerators: a small vector for every layer and token, and the gate by which a layer takes it.

    inputs = (norm(context * context_scale) + table[id] * table_scale) * 2^-0.5
    gate:    total = x + norm(y),  gated = gelu(W total) * input of the layer

The table may lie in pinned host memory: the kernel reads the rows that it needs over the bus.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
import triton
import triton.language as tl

from tokenwell.engine.kernels.gated import activate
from tokenwell.engine.kernels.norms import reference_rms_norm
from tokenwell.engine.platform import accelerator

FEW = 16  # tokens up to which `sum_and_gate` reads the gate's weights for each token anew
_HALF_ROOT = 2.0**-0.5


@triton.jit
def _inputs(  # type: ignore[no-untyped-def]
    context_at, context_stride, context_scale, table_at, table_scale, ids_at, weight_at, out_at, eps, half_root,
    LAYERS: tl.constexpr, DIM: tl.constexpr, SEVERAL: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (t, i): layers i * SEVERAL .. of token t."""
    token = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1) * SEVERAL + tl.arange(0, SEVERAL)
    channel = tl.arange(0, BLOCK)
    inside = (layer < LAYERS)[:, None] & (channel < DIM)[None, :]
    at = layer[:, None] * DIM + channel[None, :]
    weight = tl.load(weight_at + channel, mask=channel < DIM, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.load(ids_at + token).to(tl.int64)
    looked_up = tl.load(table_at + row * (LAYERS * DIM) + at, mask=inside, other=0.0).to(tl.float32) * table_scale
    context = tl.load(context_at + token * context_stride + at, mask=inside, other=0.0).to(tl.float32) * context_scale
    context = context * tl.rsqrt(tl.sum(context * context, 1) / DIM + eps)[:, None] * weight[None, :]
    out = (context + looked_up) * half_root
    tl.store(out_at + token * (LAYERS * DIM) + at, out.to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def _sum_and_gate(  # type: ignore[no-untyped-def]
    x_at, x_stride, y_at, y_stride, norm_at, weight_at, input_at, input_stride, total_at, out_at, eps,
    DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (t, i): rows i * ROWS .. of the gate for token t, whose sum every program works out and the first one stores."""
    token = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    at = tl.arange(0, BLOCK)
    inside = at < DIM
    within = row < WIDTH
    weight = tl.load(weight_at + row[:, None] * DIM + at[None, :], mask=within[:, None] & inside[None, :], other=0.0)
    norm = tl.load(norm_at + at, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    y = tl.load(y_at + token * y_stride + at, mask=inside, other=0.0).to(tl.float32)
    x = tl.load(x_at + token * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(input_at + token * input_stride + row, mask=within, other=0.0).to(tl.float32)
    total = (x + y * tl.rsqrt(tl.sum(y * y, 0) / DIM + eps) * norm).to(total_at.dtype.element_ty)
    if tl.program_id(1) == 0:
        tl.store(total_at + token * DIM + at, total, mask=inside)
    gate = tl.sum(weight.to(tl.float32) * total.to(tl.float32)[None, :], 1)
    tl.store(out_at + token * WIDTH + row, (activate(gate, GELU) * value).to(out_at.dtype.element_ty), mask=within)


@triton.jit
def _times(  # type: ignore[no-untyped-def]
    gate_at, gate_stride, input_at, input_stride, out_at, width, GELU: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    gate = tl.load(gate_at + token * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(input_at + token * input_stride + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + token * width + at, (activate(gate, GELU) * value).to(out_at.dtype.element_ty), mask=inside)


def inputs(
    context: torch.Tensor, context_scale: float, table: torch.Tensor, table_scale: float, ids: torch.Tensor,
    weight: torch.Tensor, eps: float,
) -> torch.Tensor:  # fmt: skip
    """The inputs of all layers [tokens, layers, dim].

    context [tokens, layers * dim], table [vocabulary, layers * dim] on the device or pinned on the host, ids [tokens] int64,
    weight [dim].
    """
    tokens, dim = len(ids), len(weight)
    layers = table.shape[1] // dim
    out = torch.empty((tokens, layers, dim), dtype=context.dtype, device=context.device)
    if tokens:
        block = triton.next_power_of_2(dim)
        several = max(1, min(2048 // block, triton.next_power_of_2(layers)))
        if tokens <= FEW:  # rather many programs than busy ones
            several = min(several, 2)
        launch = accelerator.launch(context.device)
        _inputs[(tokens, triton.cdiv(layers, several))](
            context, context.stride(0), context_scale, table, table_scale, ids, weight, out, eps, _HALF_ROOT,
            LAYERS=layers, DIM=dim, SEVERAL=several, BLOCK=block, num_warps=4, **launch,
        )  # fmt: skip
    return out


def sum_and_gate(
    x: torch.Tensor, y: torch.Tensor, norm: torch.Tensor, eps: float, weight: torch.Tensor, given: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + norm(y) [tokens, dim] and activation(weight of that) * given [tokens, width], for few tokens.

    x, y [tokens, dim], norm [dim], weight [width, dim] contiguous, given [tokens, width] with unit stride in a row.
    """
    tokens, dim, width = x.shape[0], x.shape[1], weight.shape[0]
    total = torch.empty((tokens, dim), dtype=x.dtype, device=x.device)
    out = torch.empty((tokens, width), dtype=x.dtype, device=x.device)
    if tokens:
        rows, warps = _shape(tokens)
        launch = accelerator.launch(x.device)
        _sum_and_gate[(tokens, triton.cdiv(width, rows))](
            x, x.stride(0), y, y.stride(0), norm, weight, given, given.stride(0), total, out, eps,
            DIM=dim, WIDTH=width, ROWS=rows, BLOCK=triton.next_power_of_2(dim), GELU=kind == "gelu_tanh",
            num_warps=accelerator.warps(warps, x.device), **launch,
        )  # fmt: skip
    return total, out


def _shape(tokens: int) -> tuple[int, int]:
    """Rows of the gate's weights in one program, and its warps: many programs for one token, less done twice for several."""
    return (4, 8) if tokens <= 2 else (8, 8)


def times(gate: torch.Tensor, given: torch.Tensor, kind: str) -> torch.Tensor:
    """activation(gate) * given: [tokens, width] each, with unit stride in a row."""
    tokens, width = gate.shape
    out = torch.empty((tokens, width), dtype=gate.dtype, device=gate.device)
    if tokens:
        block = min(triton.next_power_of_2(width), 1024)
        launch = accelerator.launch(gate.device)
        _times[(tokens, triton.cdiv(width, block))](
            gate, gate.stride(0), given, given.stride(0), out, width, kind == "gelu_tanh", block,
            num_warps=max(1, block // 256), **launch,
        )  # fmt: skip
    return out


def reference_inputs(
    context: torch.Tensor, context_scale: float, table: torch.Tensor, table_scale: float, ids: torch.Tensor,
    weight: torch.Tensor, eps: float,
) -> torch.Tensor:  # fmt: skip
    """`inputs` in plain torch and float32."""
    shape = (-1, len(weight))
    wide = (context.to(torch.float32) * context_scale).unflatten(-1, shape)
    looked_up = table[ids.to(table.device)].to(context.device, torch.float32).unflatten(-1, shape)
    return (reference_rms_norm(wide, weight, eps) + looked_up * table_scale) * _HALF_ROOT


def reference_sum_and_gate(
    x: torch.Tensor, y: torch.Tensor, norm: torch.Tensor, eps: float, weight: torch.Tensor, given: torch.Tensor, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """`sum_and_gate` in plain torch; the sum in x's dtype, the rest in float32."""
    total = (x.to(torch.float32) + reference_rms_norm(y, norm, eps)).to(x.dtype)
    return total, reference_times(total.to(torch.float32) @ weight.to(torch.float32).T, given, kind)


def reference_times(gate: torch.Tensor, given: torch.Tensor, kind: str) -> torch.Tensor:
    """`times` in plain torch and float32."""
    wide = gate.to(torch.float32)
    activation = functional.silu(wide) if kind == "silu" else functional.gelu(wide, approximate="tanh")
    return activation * given.to(torch.float32)
