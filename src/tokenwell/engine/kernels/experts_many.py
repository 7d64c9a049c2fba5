"""Experts for many tokens on accelerators: slots (a token and one of its experts) sorted by expert, one product an expert.

Four kernels: sort, gate and up with the gated activation, down, and the sum over a token's experts. Nothing is padded and
nothing is read back: grids follow from shapes, a program that has no slots ends at once. Each program owns some rows of one
expert's weight and goes over that expert's slots, so that weights are read once while their slots fit into one tile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels import mxfp4
from tokenwell.engine.kernels.e4m3 import decoded, readable
from tokenwell.engine.kernels.experts_few import KINDS, gate
from tokenwell.engine.kernels.fp8 import quantise_tokens
from tokenwell.engine.kernels.tiling import room_bytes, stages_that_fit
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.experts import ExpertMatrix


@dataclass(frozen=True)
class Tiling:
    """`rows` x `columns` of a weight times `slots` inputs at a time; `stages` such steps are on their way.

    `columns` is a multiple of 32.
    """

    slots: int
    rows: int
    columns: int
    warps: int
    stages: int
    parts: int = 1  # programs that share an expert's slots


# ---------------------------------------------------------------- order


@triton.jit
def _sort(chosen_at, order_at, places_at, starts_at, slots, first, experts, BLOCK: tl.constexpr, PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    # One program an expert: it counts the slots of experts before its own and lists its own, in their order.
    expert = tl.program_id(0) + first
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    before = tl.zeros((BLOCK,), tl.int32)
    for block in tl.range(0, slots, BLOCK):
        slot = block + tl.arange(0, BLOCK)
        ids = tl.load(chosen_at + slot, mask=slot < slots, other=-1).to(tl.int32)
        before += ((ids >= first) & (ids < expert)).to(tl.int32)
    start = tl.sum(before, 0)
    tl.store(starts_at + tl.program_id(0), start)
    for block in tl.range(0, slots, BLOCK):
        slot = block + tl.arange(0, BLOCK)
        ids = tl.load(chosen_at + slot, mask=slot < slots, other=-1).to(tl.int32)
        mine = ((ids == expert) & (slot < slots)).to(tl.int32)
        place = start + tl.cumsum(mine, 0) - 1
        tl.store(order_at + place, slot, mask=mine != 0)
        if places_at is not None:
            tl.store(places_at + slot, place, mask=mine != 0)
        start += tl.sum(mine, 0)
    if tl.program_id(0) == experts - 1:
        tl.store(starts_at + experts, start)


def sort(
    chosen: torch.Tensor, experts: int, first: int = 0, places: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots [tokens * k] by expert, equal ones in order, and where each of `experts` from `first` on starts [experts + 1], int32.

    `places` [tokens * k] int32 takes the inverse. Slots of other experts are nowhere: behind the last start `order` is 0 if
    `places` is given, else not written.
    """
    chosen = chosen.contiguous()
    slots = chosen.numel()
    make = torch.empty if places is None else torch.zeros
    order = make(slots, dtype=torch.int32, device=chosen.device)
    starts = torch.empty(experts + 1, dtype=torch.int32, device=chosen.device)
    block = min(4096, max(16, triton.next_power_of_2(slots)))
    launch = accelerator.launch(chosen.device)
    _sort[(experts,)](chosen, order, places, starts, slots, first, experts, BLOCK=block, num_warps=max(1, block // 256), **launch)
    return order, starts


# ---------------------------------------------------------------- products


@triton.jit
def _tile(weight_at, scales_at, rows, block, IN: tl.constexpr, PACKED: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """[ROWS, COLUMNS] of a weight as stored (MXFP4: words), and the scales of its blocks if it is MXFP4.

    `block` is the first column over 32.
    """
    EVEN: tl.constexpr = IN % COLUMNS == 0
    if PACKED:
        # Behind the last block there is the next row, or memory that is there for it (`empty_mxfp4`): inputs are zero there.
        codes = tl.load(weight_at + rows[:, None] * (IN // 8) + block * 4 + tl.arange(0, COLUMNS // 8)[None, :])
        blocks = block + tl.arange(0, COLUMNS // 32)
        return codes, tl.load(scales_at + rows[:, None] * mxfp4.scale_stride(IN) + blocks[None, :])
    else:  # noqa: RET505, one of the two is compiled
        at = block * 32 + tl.arange(0, COLUMNS)
        mask = None if EVEN else (at < IN)[None, :]
        return tl.load(weight_at + rows[:, None] * IN + at[None, :], mask=mask, other=None if EVEN else 0.0), 0


@triton.jit
def _add(codes, powers, x, total, PACKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """total [ROWS, SLOTS] + weight x."""
    if PACKED:
        return tl.dot(mxfp4.halves(codes, powers), x, total)
    elif codes.dtype == x.dtype:  # noqa: RET505
        return tl.dot(codes, x, total, input_precision="ieee")
    else:
        # By way of float16, which is two elements an instruction; straight to bfloat16 is a slow conversion on Hopper.
        return tl.dot(decoded(codes).to(tl.float16).to(tl.float32).to(x.dtype), x, total, input_precision="ieee")


@triton.jit
def _gate_up(  # type: ignore[no-untyped-def]
    x_at, x_stride, x_scales_at, order_at, starts_at, weight_at, scales_at, bias_at, hidden_at, width, limit,
    IN: tl.constexpr, TOP: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # A tile has some gate rows and below them the value rows that belong to these. Behind the last row it is computed again,
    # which is cheaper than masks.
    HALF: tl.constexpr = ROWS // 2
    expert = tl.program_id(1).to(tl.int64)
    line = tl.arange(0, ROWS)
    rows = (expert * 2 + line // HALF) * width + tl.minimum(tl.program_id(0) * HALF + line % HALF, width - 1)
    row = tl.program_id(0) * HALF + tl.arange(0, HALF)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    end = tl.load(starts_at + expert + 1)
    for first in tl.range(tl.load(starts_at + expert) + tl.program_id(2) * SLOTS, end, PARTS * SLOTS):
        place = first + tl.arange(0, SLOTS)
        here = place < end
        token = tl.load(order_at + place, mask=here, other=0) // TOP
        total = tl.zeros((ROWS, SLOTS), tl.float32)
        for block in tl.range(0, (IN + 31) // 32, COLUMNS // 32, num_stages=STAGES):
            column = block * 32 + tl.arange(0, COLUMNS)
            mask = here[None, :] if IN % COLUMNS == 0 else (column < IN)[:, None] & here[None, :]
            x = tl.load(x_at + token.to(tl.int64)[None, :] * x_stride + column[:, None], mask=mask, other=0.0)
            codes, powers = _tile(weight_at, scales_at, rows, block, IN, PACKED, COLUMNS)
            total = _add(codes, powers, x, total, PACKED)
        if scales_at is not None:
            if not PACKED:
                total *= tl.load(scales_at + rows)[:, None]
        if x_scales_at is not None:
            total *= tl.load(x_scales_at + token, mask=here, other=0.0)[None, :]
        if bias_at is not None:
            total += tl.load(bias_at + rows).to(tl.float32)[:, None]
        gates, values = tl.split(tl.permute(tl.reshape(total, (2, HALF, SLOTS)), (1, 2, 0)))
        hidden = gate(gates, values, limit, KIND)
        at = hidden_at + place.to(tl.int64)[None, :] * width + row[:, None]
        tl.store(at, hidden.to(hidden_at.dtype.element_ty), mask=(row < width)[:, None] & here[None, :])


@triton.jit
def _down(  # type: ignore[no-untyped-def]
    hidden_at, hidden_scales_at, order_at, starts_at, share_at, weight_at, scales_at, bias_at, y_at, dim,
    IN: tl.constexpr, PACKED: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PARTS: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    expert = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < dim
    rows = expert * dim + tl.minimum(row, dim - 1)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    end = tl.load(starts_at + expert + 1)
    for first in tl.range(tl.load(starts_at + expert) + tl.program_id(2) * SLOTS, end, PARTS * SLOTS):
        place = first + tl.arange(0, SLOTS)
        here = place < end
        total = tl.zeros((ROWS, SLOTS), tl.float32)
        for block in tl.range(0, (IN + 31) // 32, COLUMNS // 32, num_stages=STAGES):
            column = block * 32 + tl.arange(0, COLUMNS)
            mask = here[None, :] if IN % COLUMNS == 0 else (column < IN)[:, None] & here[None, :]
            x = tl.load(hidden_at + place.to(tl.int64)[None, :] * IN + column[:, None], mask=mask, other=0.0)
            codes, powers = _tile(weight_at, scales_at, rows, block, IN, PACKED, COLUMNS)
            total = _add(codes, powers, x, total, PACKED)
        if scales_at is not None:
            if not PACKED:
                total *= tl.load(scales_at + rows, mask=inside, other=0.0)[:, None]
        if hidden_scales_at is not None:
            total *= tl.load(hidden_scales_at + place, mask=here, other=0.0)[None, :]
        if bias_at is not None:
            total += tl.load(bias_at + rows, mask=inside, other=0.0).to(tl.float32)[:, None]
        slot = tl.load(order_at + place, mask=here, other=0)
        total *= tl.load(share_at + slot, mask=here, other=0.0).to(tl.float32)[None, :]
        at = y_at + slot.to(tl.int64)[None, :] * dim + row[:, None]
        tl.store(at, total.to(y_at.dtype.element_ty), mask=inside[:, None] & here[None, :])


@triton.jit
def _combine(  # type: ignore[no-untyped-def]
    slots_at, places_at, chosen_at, share_at, bias_at, residual_at, residual_stride, y_at, dim, first, experts,
    TOP: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < dim
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    total = tl.zeros((BLOCK,), tl.float32)
    for index in tl.static_range(0, TOP):
        slot = token * TOP + index
        expert = tl.load(chosen_at + slot).to(tl.int32) - first
        known = (expert >= 0) & (expert < experts)  # what other ranks' experts would give was never written
        mine = inside & known
        place = slot
        if places_at is not None:
            place = tl.load(places_at + slot, mask=known, other=0).to(tl.int64)
        y = tl.load(slots_at + place * dim + column, mask=mine, other=0.0).to(tl.float32)
        if bias_at is not None:
            y += tl.load(bias_at + expert.to(tl.int64) * dim + column, mask=mine, other=0.0).to(tl.float32)
        if share_at is not None:
            y *= tl.load(share_at + slot).to(tl.float32)
        total += y
    if residual_at is not None:
        total += tl.load(residual_at + token * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_at + token * dim + column, total.to(y_at.dtype.element_ty), mask=inside)


@triton.jit
def _narrow(x_at, x_stride, y_at, dim, BLOCK: tl.constexpr, PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    x = tl.load(x_at + token * x_stride + column, mask=column < dim, other=0.0).to(tl.float32)
    tl.store(y_at + token * dim + column, tl.minimum(tl.maximum(x, -65504.0), 65504.0).to(tl.float16), mask=column < dim)


# ---------------------------------------------------------------- choice and launch


def tiling(weight: ExpertMatrix, slots: int) -> Tiling:
    """How a product of `slots` inputs in all is cut."""
    each = 2 * slots / weight.experts  # what an expert gets that is asked for often
    width = 16
    while width < each and width < 128:
        width *= 2
    parts = 1 if width < 128 else 4
    if weight.packed:  # two warps: the weight is decoded where the product reads it, and does not pass through shared memory
        return Tiling(width, 64, 128, warps=2, stages=4, parts=parts) if width <= 32 else Tiling(width, 64, 128, 4, 3, parts)
    columns = 128 // weight.codes.element_size()
    return Tiling(width, 64, columns, warps=4, stages=4 if columns == 128 else 5, parts=parts)


def _fitted(cut: Tiling, x: torch.Tensor, weight: ExpertMatrix) -> Tiling:
    """With as many stages as shared memory holds. Scales and what MXFP4 becomes take a quarter of its inputs' bytes."""
    row_bytes = cut.columns * weight.codes.element_size() // (8 if weight.packed else 1)
    input_bytes = cut.columns * x.element_size() * (5 if weight.packed else 4) // 4
    step = cut.rows * row_bytes + cut.slots * input_bytes
    return replace(cut, stages=stages_that_fit(cut.stages, step, room_bytes(x.device)))


def reason_not(x: torch.Tensor, weight: ExpertMatrix) -> str | None:
    """Why these kernels cannot multiply x by such weights; None when they can."""
    if weight.packed and x.dtype == torch.float32:
        return "MXFP4 is multiplied in 16 bits"
    return None


def experts_many(
    x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, gate_up: ExpertMatrix, down: ExpertMatrix, kind: str, *,
    limit: float = 0.0, residual: torch.Tensor | None = None, dtype: torch.dtype | None = None, first: int = 0,
    tiles: tuple[Tiling, Tiling] | None = None, quantise: bool | None = None,
) -> torch.Tensor:  # fmt: skip
    """Like `experts_few`, for any number of tokens. `quantise`: e4m3 weights are multiplied with inputs in e4m3, a scale a token;
    by default where the device has units for them."""
    tokens, dim = x.shape
    top = chosen.shape[1]
    slots, width, count = tokens * top, gate_up.rows // 2, gate_up.codes.shape[0]
    x = x if x.stride(1) == 1 else x.contiguous()
    chosen, share = chosen.contiguous(), share.contiguous()
    order, starts = sort(chosen, count, first)
    one, two = tiles or (tiling(gate_up, slots), tiling(down, slots))
    parts = torch.empty((slots, dim), dtype=x.dtype, device=x.device)
    result = dtype or x.dtype
    if gate_up.packed:
        x = _in_float16(x)
    hidden = torch.empty((slots, width), dtype=x.dtype, device=x.device)
    if quantise is None:
        quantise = accelerator.fp8_units(x.device)
    quantise = quantise and gate_up.codes.dtype == torch.float8_e4m3fn
    scale = None
    if quantise:
        x, scale = quantise_tokens(x)
    one, two = (_fitted(cut, x, gate_up) for cut in (one, two))
    launch = accelerator.launch(x.device)
    _gate_up[(triton.cdiv(2 * width, one.rows), count, one.parts)](
        x, x.stride(0), scale, order, starts, readable(gate_up.codes), gate_up.scales, gate_up.bias, hidden, width, limit,
        IN=dim, TOP=top, KIND=KINDS[kind], PACKED=gate_up.packed, SLOTS=one.slots, ROWS=one.rows, COLUMNS=one.columns,
        PARTS=one.parts, STAGES=one.stages, num_warps=accelerator.warps(one.warps, x.device), **launch,
    )  # fmt: skip
    if quantise:
        hidden, scale = quantise_tokens(hidden)
    _down[(triton.cdiv(dim, two.rows), count, two.parts)](
        hidden, scale, order, starts, share, readable(down.codes), down.scales, down.bias, parts, dim,
        IN=width, PACKED=down.packed, SLOTS=two.slots, ROWS=two.rows, COLUMNS=two.columns,
        PARTS=two.parts, STAGES=two.stages, num_warps=accelerator.warps(two.warps, x.device), **launch,
    )  # fmt: skip
    return combine(parts, chosen, None, residual=residual, dtype=result, experts=count, first=first)


def combine(
    parts: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor | None, *, experts: int, first: int = 0,
    places: torch.Tensor | None = None, bias: torch.Tensor | None = None, residual: torch.Tensor | None = None,
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """parts [tokens * k, dim] of the slots -> their sum a token [tokens, dim].

    `places`: the slots' rows in `parts`, which else are in order. `share` and `bias` [experts, dim]: not in the parts yet.
    """
    tokens, top = chosen.shape
    dim = parts.shape[1]
    y = torch.empty((tokens, dim), dtype=dtype, device=parts.device)
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous()
    block = min(1024, triton.next_power_of_2(dim))
    launch = accelerator.launch(parts.device)
    _combine[(tokens, triton.cdiv(dim, block))](
        parts, places, chosen, share, bias, residual, 0 if residual is None else residual.stride(0), y, dim, first, experts,
        TOP=top, BLOCK=block, num_warps=4, **launch,
    )  # fmt: skip
    return y


def _in_float16(x: torch.Tensor) -> torch.Tensor:
    """x [tokens, dim] in float16: MXFP4 is multiplied in it, which has more digits than bfloat16, and normed inputs fit."""
    if x.dtype == torch.float16:
        return x
    y = torch.empty(x.shape, dtype=torch.float16, device=x.device)
    launch = accelerator.launch(x.device)
    block = 1024
    _narrow[(x.shape[0], triton.cdiv(x.shape[1], block))](x, x.stride(0), y, x.shape[1], BLOCK=block, **launch)
    return y
