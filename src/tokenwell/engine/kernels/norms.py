"""RMS norms and the additions between them, on accelerators: what lies between two matrix products is one kernel.

    total   = (x + outer(norm(first) + norm(second))) * scalar       every part but x may be missing
    outputs = norm(total, weight), norm(total, other weight)          each in total's dtype or in 8 bits

One program a token; sums are in float32 and every tensor that is stored is rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.platform import accelerator

_FEW = 1024  # rows that a card holds all at once


@triton.jit
def _unit(x, dim, eps):  # type: ignore[no-untyped-def]
    """x / sqrt(mean(x^2) + eps) of one row, which is zero outside."""
    return x * tl.rsqrt(tl.sum(x * x, 0) / dim + eps)


@triton.jit
def _weight(weight_at, at, inside):  # type: ignore[no-untyped-def]
    """[BLOCK], or 1 where there is none."""
    if weight_at is not None:
        return tl.load(weight_at + at, mask=inside, other=0.0)
    else:  # noqa: RET505
        return 1.0


@triton.jit
def _put(out_at, scale_at, y, row, at, inside, DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row of an output, in e4m3 with a scale where there is a place for the scale."""
    if scale_at is not None:
        scale = tl.maximum(tl.max(tl.abs(y), 0), 1e-30) / 448.0
        tl.store(scale_at + row, scale)
        y = tl.minimum(tl.maximum(y / scale, -448.0), 448.0)
    tl.store(out_at + row * DIM + at, y.to(out_at.dtype.element_ty), mask=inside)


@triton.jit
def _join(  # type: ignore[no-untyped-def]
    x_at, x_stride,
    first_at, first_stride, first_part, first_weight_at,
    second_at, second_stride, second_weight_at,
    outer_weight_at, scalar_at, total_at,
    out_at, weight_at, scale_at, other_at, other_weight_at, other_scale_at,
    eps,
    PARTS: tl.constexpr, FIRST_NORM: tl.constexpr, SECOND_NORM: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < DIM
    # Weights and the scalar are nobody's output: they are on their way while the kernel before ends.
    first_weight = _weight(first_weight_at, at, inside)
    second_weight = _weight(second_weight_at, at, inside)
    outer_weight = _weight(outer_weight_at, at, inside)
    weight = _weight(weight_at, at, inside)
    other_weight = _weight(other_weight_at, at, inside)
    if scalar_at is not None:
        scalar = tl.load(scalar_at).to(tl.float32)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    total = tl.load(x_at + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    if first_at is not None:
        added = tl.load(first_at + row * first_stride + at, mask=inside, other=0.0).to(tl.float32)
        for part in tl.static_range(1, PARTS):
            added += tl.load(first_at + part * first_part + row * first_stride + at, mask=inside, other=0.0).to(tl.float32)
        if second_at is not None:
            second = tl.load(second_at + row * second_stride + at, mask=inside, other=0.0).to(tl.float32)
        if FIRST_NORM:
            added = _unit(added, DIM, eps) * first_weight
        if second_at is not None:
            if SECOND_NORM:
                second = _unit(second, DIM, eps) * second_weight
            added += second
        if outer_weight_at is not None:
            added = _unit(added, DIM, eps) * outer_weight
        total += added
        if scalar_at is not None:
            total *= scalar
        # What is normed is what is stored: whoever norms the stored sum again gets the same.
        rounded = total.to(total_at.dtype.element_ty)
        tl.store(total_at + row * DIM + at, rounded, mask=inside)
        total = rounded.to(tl.float32)
    if out_at is not None:
        unit = _unit(total, DIM, eps)
        _put(out_at, scale_at, unit * weight, row, at, inside, DIM)
        if other_at is not None:
            _put(other_at, other_scale_at, unit * other_weight, row, at, inside, DIM)


def _warps(rows: int, block: int) -> int:
    """Few rows want short sums, many rows many programs on each processor."""
    return min(16 if rows <= _FEW else 8, max(1, block // (512 if rows <= _FEW else 1024)))


def _launch(x: torch.Tensor, dim: int, **given: Any) -> None:
    """`given` are the kernel's arguments that are not None; tensors are rows of `dim` whose last stride is 1."""
    names = (
        "first_at", "first_stride", "first_part", "first_weight_at", "second_at", "second_stride", "second_weight_at",
        "outer_weight_at", "scalar_at", "total_at", "out_at", "weight_at", "scale_at", "other_at", "other_weight_at",
        "other_scale_at",
    )  # fmt: skip
    given = dict.fromkeys(names) | {"PARTS": 1} | given
    block = triton.next_power_of_2(dim)
    launch = accelerator.launch(x.device)
    _join[(x.shape[0],)](
        x_at=x, x_stride=x.stride(0), DIM=dim, BLOCK=block, num_warps=_warps(x.shape[0], block), **given, **launch
    )  # fmt: skip


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension [..., dim]; weight [dim]."""
    dim = x.shape[-1]
    rows = _rows(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows.shape[0]:
        _launch(rows, dim, out_at=out, weight_at=weight, eps=eps, FIRST_NORM=False, SECOND_NORM=False)
    return out


def rms_norm_quantised(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> Codes:
    """The norm of x [tokens, dim] in e4m3."""
    dim = x.shape[-1]
    rows = _rows(x)
    out = Codes.empty(len(rows), dim, x.device)
    if rows.shape[0]:
        _launch(rows, dim, out_at=out.codes, scale_at=out.scale, weight_at=weight, eps=eps, FIRST_NORM=False, SECOND_NORM=False)
    return out


def join(
    x: torch.Tensor, first: torch.Tensor, eps: float, *,
    first_norm: bool = False, first_weight: torch.Tensor | None = None,
    second: torch.Tensor | None = None, second_norm: bool = False, second_weight: torch.Tensor | None = None,
    outer_weight: torch.Tensor | None = None, scalar: torch.Tensor | None = None,
    weights: tuple[torch.Tensor | None, ...] = (), coded: tuple[bool, ...] = (),
) -> tuple[torch.Tensor, tuple[torch.Tensor | Codes, ...]]:  # fmt: skip
    """(x + outer(first + second)) * scalar, and its norms with each of at most two `weights`: each [tokens, dim].

    x, first and second [tokens, dim]; first and second are normed where the flag says so. `first` may be [parts, tokens, dim],
    whose sum is meant. Weights are [dim], the scalar [1].
    `coded` says for each norm whether it is put out in e4m3; none is where it is empty.
    """
    if len(weights) > 2:
        raise ValueError(f"a sum is normed at most twice, not {len(weights)} times")
    dim = x.shape[-1]
    x = _rows(x)
    first = first if first.dim() == 3 and first.is_contiguous() else _rows(first)
    second = None if second is None else _rows(second)
    total = torch.empty((x.shape[0], dim), dtype=x.dtype, device=x.device)
    outputs = tuple(
        Codes.empty(len(x), dim, x.device) if in_codes else torch.empty_like(total)
        for in_codes, _ in zip(coded or (False,) * len(weights), weights, strict=True)
    )
    if x.shape[0]:
        (out, scale), (other, other_scale) = (*(_places(output) for output in outputs), (None, None), (None, None))[:2]
        weight, other_weight = (*weights, None, None)[:2]
        _launch(
            x, dim, first_at=first, first_stride=first.stride(-2), first_part=first.stride(0), first_weight_at=first_weight,
            PARTS=len(first) if first.dim() == 3 else 1,
            second_at=second, second_stride=0 if second is None else second.stride(0), second_weight_at=second_weight,
            outer_weight_at=outer_weight, scalar_at=scalar, total_at=total, out_at=out, weight_at=weight, scale_at=scale,
            other_at=other, other_weight_at=other_weight, other_scale_at=other_scale, eps=eps, FIRST_NORM=first_norm,
            SECOND_NORM=second_norm,
        )  # fmt: skip
    return total, outputs


def _places(output: torch.Tensor | Codes) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Where an output goes, and its scales if it has some."""
    return (output, None) if isinstance(output, torch.Tensor) else (output.codes, output.scale)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[rows, dim] with unit stride inside a row."""
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def reference_rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """The norm in plain torch, in float32."""
    wide = x.to(torch.float32)
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight.to(torch.float32)


def reference_join(
    x: torch.Tensor, first: torch.Tensor, eps: float, *,
    first_norm: bool = False, first_weight: torch.Tensor | None = None,
    second: torch.Tensor | None = None, second_norm: bool = False, second_weight: torch.Tensor | None = None,
    outer_weight: torch.Tensor | None = None, scalar: torch.Tensor | None = None,
    weights: tuple[torch.Tensor, ...] = (),
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """`join` in plain torch; the sum in x's dtype, its norms in float32."""
    added = reference_rms_norm(first, first_weight, eps) if first_norm else first.to(torch.float32)
    if second is not None:
        added = added + (reference_rms_norm(second, second_weight, eps) if second_norm else second.to(torch.float32))
    if outer_weight is not None:
        added = reference_rms_norm(added, outer_weight, eps)
    total = x.to(torch.float32) + added
    if scalar is not None:
        total = total * scalar.to(torch.float32)
    total = total.to(x.dtype)
    return (total, *(reference_rms_norm(total, weight, eps) for weight in weights))
