"""Linear maps of some tokens to few outputs in 16 bits, on accelerators: y = act(W norm(x) + b) * times.

For gates and routers with 17 to 128 tokens. Their outputs are too few to keep the processors busy by tiles of the usual sizes,
and what stands around the product would cost more kernels than the product itself. A program has a small tile of outputs over
all of the columns, of which each of its warps multiplies a part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
import triton
import triton.language as tl

from tokenwell.engine.kernels.gated import activate
from tokenwell.engine.kernels.norms import reference_rms_norm
from tokenwell.engine.platform import accelerator

MOST_TOKENS = 128
MOST_OUTPUTS = 512
_TILE = 16  # outputs and tokens of a program
_SPLIT = 4  # parts of the columns, one for each warp


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x_at, x_stride, norm_at, weight_at, bias_at, times_at, times_stride, y_at, out, tokens, eps,
    IN: tl.constexpr, NORM: tl.constexpr, ACTIVATED: tl.constexpr, GELU: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
    SPLIT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    rows = tl.minimum(row, out - 1)
    given = tl.minimum(token, tokens - 1)
    y = tl.zeros((SPLIT, TILE, TILE), tl.float32)
    squares = tl.zeros((SPLIT, TILE), tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for start in tl.range(0, IN, SPLIT * COLUMNS, num_stages=4):
        column = start + tl.arange(0, SPLIT)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
        inside = column < IN
        weight = tl.load(weight_at + rows[None, :, None] * IN + column[:, None, :], mask=inside[:, None, :], other=0.0)
        x = tl.load(x_at + given[None, None, :] * x_stride + column[:, :, None], mask=inside[:, :, None], other=0.0)
        if NORM:
            wide = x.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            if norm_at is not None:
                x = (wide * tl.load(norm_at + column, mask=inside, other=0.0).to(tl.float32)[:, :, None]).to(x.dtype)
        y = tl.dot(weight, x, y, input_precision="ieee")
    result = tl.sum(y, 0)
    if NORM:  # the factor 1 / rms(x) may as well be applied to the result
        result *= tl.rsqrt(tl.sum(squares, 0) / IN + eps)[None, :]
    if bias_at is not None:
        result += tl.load(bias_at + rows).to(tl.float32)[:, None]
    if ACTIVATED:
        result = activate(result, GELU)
    mask = (row < out)[:, None] & (token < tokens)[None, :]
    if times_at is not None:
        result *= tl.load(times_at + token[None, :] * times_stride + row[:, None], mask=mask, other=0.0).to(tl.float32)
    tl.store(y_at + token[None, :] * out + row[:, None], result.to(y_at.dtype.element_ty), mask=mask)


def reason_not(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Why this kernel is not the one for x [tokens, in] and `weight` [out, in]; None when it is."""
    if not 0 < len(x) <= MOST_TOKENS or len(weight) > MOST_OUTPUTS:
        return f"{len(x)} tokens, {len(weight)} outputs; the kernel is for {MOST_TOKENS} and {MOST_OUTPUTS}"
    if x.dtype == torch.float32 or weight.dtype != x.dtype:
        return f"no units multiply {x.dtype} by {weight.dtype}"
    return None


def linear(
    x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None,
    norm: tuple[torch.Tensor | None, float] | None = None, activation: str | None = None, times: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:  # fmt: skip
    """act(W norm(x) + b) * times: x [tokens, in], weight [out, in] contiguous, times [tokens, out] -> [tokens, out] in `dtype`.

    `norm` = (weight [in] or None, eps), `activation` one of gated.KINDS. Rows of x and times have unit stride.
    """
    tokens, depth = x.shape
    out = len(weight)
    y = torch.empty((tokens, out), dtype=dtype or x.dtype, device=x.device)
    weights, eps = norm or (None, 0.0)
    launch = accelerator.launch(x.device)
    _product[(triton.cdiv(out, _TILE), triton.cdiv(tokens, _TILE))](
        x, x.stride(0), weights, weight, bias, times, 0 if times is None else times.stride(0), y, out, tokens, eps,
        IN=depth, NORM=norm is not None, ACTIVATED=activation is not None, GELU=activation == "gelu_tanh", TILE=_TILE,
        COLUMNS=min(64, max(16, triton.next_power_of_2(depth) // _SPLIT)), SPLIT=_SPLIT,
        num_warps=accelerator.warps(4, x.device), **launch,
    )  # fmt: skip
    return y


def reference(
    x: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None = None,
    norm: tuple[torch.Tensor | None, float] | None = None, activation: str | None = None, times: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """`linear` in plain torch and float32."""
    y = (x.to(torch.float32) if norm is None else reference_rms_norm(x, *norm)) @ weight.to(torch.float32).T
    if bias is not None:
        y = y + bias.to(torch.float32)
    if activation is not None:
        y = functional.silu(y) if activation == "silu" else functional.gelu(y, approximate="tanh")
    return y if times is None else y * times.to(torch.float32)
