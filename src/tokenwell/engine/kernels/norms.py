"""RMS norms and the additions between them, on accelerators: what lies between two matrix products is one kernel.

    total   = (x + outer(norm(first) + norm(second))) * scalar       every part but x may be missing
    outputs = norm(total, weight), norm(total, other weight)          or the first one in 8 bits

One program a token; sums are in float32 and every tensor that is stored is rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

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
def _join(  # type: ignore[no-untyped-def]
    x_at, x_stride,
    first_at, first_stride, first_weight_at,
    second_at, second_stride, second_weight_at,
    outer_weight_at, scalar_at, total_at,
    out_at, weight_at, other_at, other_weight_at, codes_at, scale_at,
    eps,
    FIRST_NORM: tl.constexpr, SECOND_NORM: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
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
    if out_at is not None or codes_at is not None:
        unit = _unit(total, DIM, eps)
        y = unit * weight
        if out_at is not None:
            tl.store(out_at + row * DIM + at, y.to(out_at.dtype.element_ty), mask=inside)
        if other_at is not None:
            tl.store(other_at + row * DIM + at, (unit * other_weight).to(other_at.dtype.element_ty), mask=inside)
        if codes_at is not None:
            scale = tl.maximum(tl.max(tl.abs(y), 0), 1e-10) / 448.0
            codes = tl.minimum(tl.maximum(y / scale, -448.0), 448.0)
            tl.store(codes_at + row * DIM + at, codes.to(codes_at.dtype.element_ty), mask=inside)
            tl.store(scale_at + row, scale)


def _warps(rows: int, block: int) -> int:
    """Few rows want short sums, many rows many programs on each processor."""
    return min(16 if rows <= _FEW else 8, max(1, block // (512 if rows <= _FEW else 1024)))


def _launch(x: torch.Tensor, dim: int, **given: Any) -> None:
    """`given` are the kernel's arguments that are not None; tensors are rows of `dim` whose last stride is 1."""
    names = (
        "first_at", "first_stride", "first_weight_at", "second_at", "second_stride", "second_weight_at", "outer_weight_at",
        "scalar_at", "total_at", "out_at", "weight_at", "other_at", "other_weight_at", "codes_at", "scale_at",
    )  # fmt: skip
    given = dict.fromkeys(names) | given
    block = triton.next_power_of_2(dim)
    pdl = accelerator.dependent_launch(x.device)
    extra: dict[str, Any] = {"launch_pdl": True} if pdl else {}
    _join[(x.shape[0],)](
        x_at=x, x_stride=x.stride(0), DIM=dim, BLOCK=block, PDL=pdl, num_warps=_warps(x.shape[0], block), **given, **extra
    )  # fmt: skip


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension [..., dim]; weight [dim]."""
    dim = x.shape[-1]
    rows = _rows(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if rows.shape[0]:
        _launch(rows, dim, out_at=out, weight_at=weight, eps=eps, FIRST_NORM=False, SECOND_NORM=False)
    return out


def rms_norm_quantised(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of x [tokens, dim] in e4m3 and its scale a token [tokens, 1] float32: norm = codes * scale."""
    dim = x.shape[-1]
    rows = _rows(x)
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scale = torch.empty((rows.shape[0], 1), dtype=torch.float32, device=x.device)
    if rows.shape[0]:
        _launch(rows, dim, codes_at=codes, scale_at=scale, weight_at=weight, eps=eps, FIRST_NORM=False, SECOND_NORM=False)
    return codes, scale


def join(
    x: torch.Tensor, first: torch.Tensor, eps: float, *,
    first_norm: bool = False, first_weight: torch.Tensor | None = None,
    second: torch.Tensor | None = None, second_norm: bool = False, second_weight: torch.Tensor | None = None,
    outer_weight: torch.Tensor | None = None, scalar: torch.Tensor | None = None,
    weights: tuple[torch.Tensor, ...] = (),
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """(x + outer(first + second)) * scalar, and its norms with each of at most two `weights`: each [tokens, dim].

    x, first and second [tokens, dim]; first and second are normed where the flag says so. Weights are [dim], the scalar [1].
    """
    if len(weights) > 2:
        raise ValueError(f"a sum is normed at most twice, not {len(weights)} times")
    dim = x.shape[-1]
    x, first = _rows(x), _rows(first)
    second = None if second is None else _rows(second)
    outputs = tuple(torch.empty((x.shape[0], dim), dtype=x.dtype, device=x.device) for _ in range(1 + len(weights)))
    if x.shape[0]:
        padded = (*outputs[1:], None, None)
        weight, other_weight = (*weights, None, None)[:2]
        _launch(
            x, dim, first_at=first, first_stride=first.stride(0), first_weight_at=first_weight,
            second_at=second, second_stride=0 if second is None else second.stride(0), second_weight_at=second_weight,
            outer_weight_at=outer_weight, scalar_at=scalar, total_at=outputs[0], out_at=padded[0], weight_at=weight,
            other_at=padded[1], other_weight_at=other_weight, eps=eps, FIRST_NORM=first_norm, SECOND_NORM=second_norm,
        )  # fmt: skip
    return outputs


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
