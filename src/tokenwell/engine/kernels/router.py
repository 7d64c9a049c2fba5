"""Which experts serve a token, on accelerators: logits, the best few, and their shares.

The share of an expert is its part of a softmax over all experts, or over the chosen ones. For up to 256 tokens one kernel does
everything: the last program of a token to end, as a counter tells, has all its logits and chooses.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.platform import accelerator

FEW_TOKENS = 16  # as many at most are multiplied in registers, for which programs have some experts and one token each
SOME_TOKENS = 256  # and as many by matrix units, for which programs have a tile of both and a part of the columns
_ROWS = 4  # experts a program
_TILE = 16  # experts and tokens
_WARPS = 4
_PROGRAMS = 3  # a processor, of matrix units


@triton.jit
def _pick(  # type: ignore[no-untyped-def]
    logits, index, experts_last, factor_at, chosen_at, share_at, token, tokens,
    TOP: tl.constexpr, SLOTS: tl.constexpr, OVER_CHOSEN: tl.constexpr,
):  # fmt: skip
    """Store the TOP largest of each row of logits, largest first; of equal ones the first.

    Logits are [TOKENS, BLOCK], -inf where there is no expert. `index` [1, BLOCK] are the experts; `token` [TOKENS, 1], of which
    those below `tokens` are there.
    """
    largest = tl.max(logits, 1)[:, None]
    whole = tl.sum(tl.exp(logits - largest), 1)[:, None]
    slot = tl.arange(0, SLOTS)[None, :]
    experts = tl.zeros((logits.shape[0], SLOTS), tl.int32)
    shares = tl.zeros((logits.shape[0], SLOTS), tl.float32)
    for place in tl.static_range(0, TOP):
        best = tl.max(logits, 1)[:, None]
        expert = tl.min(tl.where(logits == best, index, 2147483647), 1)[:, None]
        expert = tl.minimum(expert, experts_last)  # of logits that are not numbers none is the best
        experts = tl.where(slot == place, expert, experts)
        shares = tl.where(slot == place, tl.exp(best - largest), shares)
        logits = tl.where(index == expert, float("-inf"), logits)
    shares = shares / (tl.sum(shares, 1)[:, None] if OVER_CHOSEN else whole)
    inside = (slot < TOP) & (token < tokens)
    if factor_at is not None:
        shares *= tl.load(factor_at + experts, mask=inside, other=0.0).to(tl.float32)
    tl.store(chosen_at + token * TOP + slot, experts, mask=inside)
    tl.store(share_at + token * TOP + slot, shares, mask=inside)


@triton.jit
def _choose(  # type: ignore[no-untyped-def]
    logits_at, logits_stride, factor_at, chosen_at, share_at, experts,
    TOP: tl.constexpr, SLOTS: tl.constexpr, OVER_CHOSEN: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) + tl.arange(0, 1)[:, None]
    index = tl.arange(0, BLOCK)[None, :]
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    at = logits_at + token.to(tl.int64) * logits_stride + index
    logits = tl.load(at, mask=index < experts, other=float("-inf")).to(tl.float32)
    _pick(logits, index, experts - 1, factor_at, chosen_at, share_at, token, token + 1, TOP, SLOTS, OVER_CHOSEN)


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
        mine = tl.program_id(1) + tl.arange(0, 1)[:, None]
        index = tl.arange(0, BLOCK)[None, :]
        logits = tl.load(logits_at + mine * experts + index, mask=index < experts, other=float("-inf"), cache_modifier=".cg")
        _pick(logits, index, experts - 1, factor_at, chosen_at, share_at, mine, mine + 1, TOP, SLOTS, OVER_CHOSEN)


@triton.jit(do_not_specialize=["tokens"])  # one binary for all of them
def _route_some(  # type: ignore[no-untyped-def]
    x_at, x_stride, norm_at, weight_at, bias_at, factor_at, parts_at, squares_at, counters_at, chosen_at, share_at,
    tokens, experts, eps,
    DIM: tl.constexpr, NORM: tl.constexpr, TOP: tl.constexpr, SLOTS: tl.constexpr, OVER_CHOSEN: tl.constexpr,
    TILE: tl.constexpr, COLUMNS: tl.constexpr, WARPS: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # Program (e, t, p): logits of a tile of experts and tokens by STEPS steps of columns, of which each warp multiplies a part.
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    part = tl.program_id(2)
    given = tl.minimum(token, tokens - 1).to(tl.int64)
    y = tl.zeros((WARPS, TILE, TILE), tl.float32)
    squares = tl.zeros((WARPS, TILE), tl.float32)
    lane = tl.arange(0, WARPS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    # Weights do not depend on the kernel before: the first travel while it ends.
    first = part * (STEPS * WARPS * COLUMNS) + lane
    at = weight_at + tl.minimum(row, experts - 1)[None, :, None] * DIM
    weight = tl.load(at + first[:, None, :], mask=(first < DIM)[:, None, :], other=0.0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for step in tl.static_range(0, STEPS):
        column = first + step * (WARPS * COLUMNS)
        inside = column < DIM
        if step > 0:
            weight = tl.load(at + column[:, None, :], mask=inside[:, None, :], other=0.0)
        x = tl.load(x_at + given[None, None, :] * x_stride + column[:, :, None], mask=inside[:, :, None], other=0.0)
        if NORM:
            wide = x.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            if norm_at is not None:
                x = (wide * tl.load(norm_at + column, mask=inside, other=0.0).to(tl.float32)[:, :, None]).to(x.dtype)
        y = tl.dot(weight, x, y, input_precision="ieee")
    place = part * tokens + token
    tl.store(
        parts_at + place[None, :] * experts + row[:, None], tl.sum(y, 0),
        mask=(row < experts)[:, None] & (token < tokens)[None, :],
    )  # fmt: skip
    if NORM:
        if tl.program_id(0) == 0:
            tl.store(squares_at + place, tl.sum(squares, 0), mask=token < tokens)
    tl.debug_barrier()  # all of the program's threads have stored before one of them counts
    if tl.atomic_add(counters_at + tl.program_id(1), 1, sem="acq_rel") == tl.num_programs(0) * PARTS - 1:
        tl.atomic_xchg(counters_at + tl.program_id(1), 0)  # for the next call
        index = tl.arange(0, BLOCK)[None, :]
        mine = tl.program_id(1) * TILE + tl.arange(0, TILE)[:, None]
        known = (index < experts) & (mine < tokens)
        logits = tl.zeros((TILE, BLOCK), tl.float32)
        whole = tl.zeros((TILE,), tl.float32)
        for other in tl.static_range(0, PARTS):
            one = parts_at + (other * tokens + mine) * experts + index
            logits += tl.load(one, mask=known, other=0.0, cache_modifier=".cg")
            if NORM:
                whole += tl.load(squares_at + other * tokens + token, mask=token < tokens, other=0.0, cache_modifier=".cg")
        if NORM:  # the factor 1 / rms(x) may as well be applied to the result
            logits *= tl.rsqrt(whole / DIM + eps)[:, None]
        if bias_at is not None:
            logits += tl.load(bias_at + index, mask=index < experts, other=0.0).to(tl.float32)
        logits = tl.where(index < experts, logits, float("-inf"))
        _pick(logits, index, experts - 1, factor_at, chosen_at, share_at, mine, tokens, TOP, SLOTS, OVER_CHOSEN)


def counters(device: torch.device) -> torch.Tensor:
    """What `route` counts its programs in: zeros between calls, of which none may overlap."""
    return torch.zeros(max(FEW_TOKENS, SOME_TOKENS // _TILE), dtype=torch.int32, device=device)


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


def reason_not(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Why `route` is not for x [tokens, dim] and `weight` [experts, dim]; None when it is."""
    most = SOME_TOKENS if x.dtype == weight.dtype != torch.float32 else FEW_TOKENS
    return None if len(x) <= most else f"{len(x)} tokens of {x.dtype}; the kernel is for {most}"


def route(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, top: int, counts: torch.Tensor, *, over_chosen: bool,
    norm: tuple[torch.Tensor | None, float] | None = None, factor: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """`choose` of the logits W norm(x) + b: x [tokens, dim], at most SOME_TOKENS; weight [experts, dim].

    `norm` = (weight [dim] or None, eps): x is RMS-normed first. Logits are not rounded. `counts` are `counters`.
    """
    tokens, dim = x.shape
    experts = weight.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    chosen, share = _empty(tokens, top, x.device)
    launch = accelerator.launch(x.device)
    if tokens > FEW_TOKENS:
        tiles = triton.cdiv(experts, _TILE), triton.cdiv(tokens, _TILE)
        columns = min(64, max(16, triton.next_power_of_2(dim) // _WARPS))
        steps = triton.cdiv(dim, _WARPS * columns)
        each = triton.cdiv(steps, max(1, min(steps, _PROGRAMS * accelerator.processors(x.device) // (tiles[0] * tiles[1]))))
        parts = triton.cdiv(steps, each)
        sums = torch.empty((parts, tokens, experts), dtype=torch.float32, device=x.device)
        squares = torch.empty((parts, tokens), dtype=torch.float32, device=x.device) if norm else None
        _route_some[(*tiles, parts)](
            x, x.stride(0), norm[0] if norm else None, weight, bias, factor, sums, squares, counts, chosen, share,
            tokens, experts, norm[1] if norm else 0.0, DIM=dim, NORM=norm is not None, TOP=top,
            SLOTS=triton.next_power_of_2(top), OVER_CHOSEN=over_chosen, TILE=_TILE, COLUMNS=columns, WARPS=_WARPS, STEPS=each,
            PARTS=parts, BLOCK=triton.next_power_of_2(experts), num_warps=accelerator.warps(_WARPS, x.device), **launch,
        )  # fmt: skip
    elif tokens:
        logits = torch.empty((tokens, experts), dtype=torch.float32, device=x.device)
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
