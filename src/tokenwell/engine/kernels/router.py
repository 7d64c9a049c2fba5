"""Which experts serve a token, on accelerators: logits, the best few, and their shares.

The share of an expert is its part of a softmax over all experts, or over the chosen ones. For a few tokens one kernel does
everything: its last program to end, as a counter tells, has all logits and chooses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.platform import accelerator

FEW_TOKENS = 16  # as many at most are served by one kernel
_ROWS = 4  # experts a program


@triton.jit
def _pick(  # type: ignore[no-untyped-def]
    logits, index, experts_last, factor_at, chosen_at, share_at,
    TOP: tl.constexpr, SLOTS: tl.constexpr, OVER_CHOSEN: tl.constexpr,
):  # fmt: skip
    """Store the TOP largest of logits [BLOCK] (places without an expert are -inf), largest first; of equal ones the first."""
    largest = tl.max(logits, 0)
    whole = tl.sum(tl.exp(logits - largest), 0)
    slot = tl.arange(0, SLOTS)
    experts = tl.zeros((SLOTS,), tl.int32)
    shares = tl.zeros((SLOTS,), tl.float32)
    for place in tl.static_range(0, TOP):
        best = tl.max(logits, 0)
        expert = tl.min(tl.where(logits == best, index, 2147483647), 0)
        expert = tl.minimum(expert, experts_last)  # of logits that are not numbers none is the best
        experts = tl.where(slot == place, expert, experts)
        shares = tl.where(slot == place, tl.exp(best - largest), shares)
        logits = tl.where(index == expert, float("-inf"), logits)
    shares = shares / (tl.sum(shares, 0) if OVER_CHOSEN else whole)
    if factor_at is not None:
        shares *= tl.load(factor_at + experts, mask=slot < TOP, other=0.0).to(tl.float32)
    tl.store(chosen_at + slot, experts, mask=slot < TOP)
    tl.store(share_at + slot, shares, mask=slot < TOP)


@triton.jit
def _choose(  # type: ignore[no-untyped-def]
    logits_at, logits_stride, factor_at, chosen_at, share_at, experts,
    TOP: tl.constexpr, SLOTS: tl.constexpr, OVER_CHOSEN: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    logits = tl.load(logits_at + token * logits_stride + index, mask=index < experts, other=float("-inf")).to(tl.float32)
    _pick(logits, index, experts - 1, factor_at, chosen_at + token * TOP, share_at + token * TOP, TOP, SLOTS, OVER_CHOSEN)


@triton.jit
def _route(  # type: ignore[no-untyped-def]
    x_at, x_stride, norm_at, weight_at, bias_at, factor_at, logits_at, counters_at, chosen_at, share_at, experts, eps,
    DIM: tl.constexpr, WIDE: tl.constexpr, NORM: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr,
    OVER_CHOSEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, WIDE)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < experts)[:, None] & (column < DIM)[None, :]
    # Weights do not depend on the kernel before: they travel while it ends.
    weight = tl.load(weight_at + row[:, None] * DIM + column[None, :], mask=inside, other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    x = tl.load(x_at + token * x_stride + column, mask=column < DIM, other=0.0).to(tl.float32)
    if NORM:
        x *= tl.rsqrt(tl.sum(x * x, 0) / DIM + eps)
        if norm_at is not None:
            x *= tl.load(norm_at + column, mask=column < DIM, other=0.0).to(tl.float32)
    y = tl.sum(weight.to(tl.float32) * x[None, :], 1)
    if bias_at is not None:
        y += tl.load(bias_at + row, mask=row < experts, other=0.0).to(tl.float32)
    tl.store(logits_at + token * experts + row, y, mask=row < experts)
    tl.debug_barrier()  # all of the program's threads have stored before one of them counts
    if tl.atomic_add(counters_at + token, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.atomic_xchg(counters_at + token, 0)  # for the next call
        index = tl.arange(0, BLOCK)
        at = logits_at + token * experts + index
        logits = tl.load(at, mask=index < experts, other=float("-inf"), cache_modifier=".cg")
        _pick(logits, index, experts - 1, factor_at, chosen_at + token * TOP, share_at + token * TOP, TOP, SLOTS, OVER_CHOSEN)


def counters(device: torch.device) -> torch.Tensor:
    """What `route` counts its programs in: zeros between calls, of which none may overlap."""
    return torch.zeros(FEW_TOKENS, dtype=torch.int32, device=device)


def _empty(tokens: int, top: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = torch.empty((tokens, top), dtype=torch.int32, device=device)
    return chosen, torch.empty((tokens, top), dtype=torch.float32, device=device)


def choose(
    logits: torch.Tensor, top: int, *, over_chosen: bool, factor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [tokens, experts] -> the best `top` ids [tokens, top] int32, best first, and their shares float32.

    Shares are of a softmax over the chosen or over all experts, times `factor` [experts] of each if given.
    """
    tokens, experts = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    chosen, share = _empty(tokens, top, logits.device)
    if tokens:
        launch = accelerator.launch(logits.device)
        _choose[(tokens,)](
            logits, logits.stride(0), factor, chosen, share, experts, TOP=top, SLOTS=triton.next_power_of_2(top),
            OVER_CHOSEN=over_chosen, BLOCK=triton.next_power_of_2(experts), num_warps=1, **launch,
        )  # fmt: skip
    return chosen, share


def route(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, top: int, counts: torch.Tensor, *, over_chosen: bool,
    norm: tuple[torch.Tensor | None, float] | None = None, factor: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """`choose` of the logits W norm(x) + b: x [tokens, dim], at most FEW_TOKENS; weight [experts, dim].

    `norm` = (weight [dim] or None, eps): x is RMS-normed first. Logits are not rounded. `counts` are `counters`.
    """
    tokens, dim = x.shape
    experts = weight.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    chosen, share = _empty(tokens, top, x.device)
    logits = torch.empty((tokens, experts), dtype=torch.float32, device=x.device)
    if tokens:
        launch = accelerator.launch(x.device)
        _route[(triton.cdiv(experts, _ROWS), tokens)](
            x, x.stride(0), norm[0] if norm else None, weight, bias, factor, logits, counts, chosen, share,
            experts, norm[1] if norm else 0.0, DIM=dim, WIDE=triton.next_power_of_2(dim), NORM=norm is not None, TOP=top,
            SLOTS=triton.next_power_of_2(top), OVER_CHOSEN=over_chosen, ROWS=_ROWS, BLOCK=triton.next_power_of_2(experts),
            num_warps=8, **launch,
        )  # fmt: skip
    return chosen, share


def reference(
    logits: torch.Tensor, top: int, *, over_chosen: bool, factor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`choose` in plain torch."""
    wide = logits.to(torch.float32)
    best, chosen = wide.topk(top, dim=-1)
    share = best.softmax(-1) if over_chosen else wide.softmax(-1).gather(-1, chosen)
    if factor is not None:
        share = share * factor[chosen]
    return chosen.to(torch.int32), share
