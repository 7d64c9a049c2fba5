"""Experts in MXFP4 for some tokens on NVIDIA's Hopper, near the speed of memory.

Four kernels: inputs sorted by expert, gate and up with the gated activation, down, and the sum over a token's experts. Inputs
become float16, which has more digits than bfloat16 and fits normed values, in the order that the products want.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from tokenwell.engine.kernels import experts_many
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights.experts import ExpertMatrix

GROUP = 128  # columns whose order is changed among themselves
FEW_SLOTS = 8  # up to here `experts_few` is faster
MANY_TOKENS = 8192  # up to here this is faster than `experts_grouped`
_COUNTED_SLOTS = 4096  # more are sorted first: each would count those before it


@dataclass(frozen=True)
class Tiling:
    """`slots` inputs times 16 * `repeat` rows a warp at a time; `stages` steps of both are on their way.

    `narrower`: half as many inputs at a time where an expert has few slots.
    """

    slots: int
    warps: int = 4
    stages: int = 2
    repeat: int = 1
    registers: int | None = None  # a thread at most; None leaves it to the compiler
    narrower: bool = False


def place_of(column: torch.Tensor) -> torch.Tensor:
    """Where the products want a column of inputs: of each 128 the four blocks of 32 are dealt out by pairs."""
    inner = column % GROUP
    return column - inner + inner % 32 // 2 * 8 + inner // 32 * 2 + inner % 2


def padded(columns: int) -> int:
    """Columns of inputs with padding, which is zero."""
    return -(-columns // GROUP) * GROUP


# ---------------------------------------------------------------- inputs


@triton.jit
def _place(column):  # type: ignore[no-untyped-def]
    inner = column % 128
    return column - inner + inner % 32 // 2 * 8 + inner // 32 * 2 + inner % 2


@triton.jit
def _prepare(  # type: ignore[no-untyped-def]
    chosen_at, places_at, starts_at, slots, first, experts, x_at, x_stride, y_at, dim, dim_padded, hidden_at, width, width_padded,
    TOP: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, SORTED: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    # The first programs count the slots of the experts before one. Each of the others is a slot: it counts those before itself
    # and writes its token's inputs there. Once places and starts are known, nothing is counted.
    program = tl.program_id(0)
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    mine = program if SORTED else program - experts - 1
    expert = first + program
    if mine >= 0:
        expert = tl.load(chosen_at + mine).to(tl.int32)
    count = tl.zeros((), tl.int32)
    if not SORTED:
        before = tl.zeros((BLOCK,), tl.int32)
        for block in tl.range(0, slots, BLOCK):
            slot = block + tl.arange(0, BLOCK)
            ids = tl.load(chosen_at + slot, mask=slot < slots, other=-1).to(tl.int32)
            before += ((ids >= first) & ((ids < expert) | ((ids == expert) & (slot < mine)))).to(tl.int32)
        count = tl.sum(before, 0)
    if mine < 0:
        tl.store(starts_at + program, count)
    elif (expert >= first) & (expert < first + experts):
        if SORTED:
            count = tl.load(places_at + mine)
        else:
            tl.store(places_at + mine, count)
        place = count.to(tl.int64)
        for start in tl.range(0, dim_padded, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            x = tl.load(x_at + (mine // TOP).to(tl.int64) * x_stride + column, mask=column < dim, other=0.0).to(tl.float32)
            x = tl.minimum(tl.maximum(x, -65504.0), 65504.0).to(tl.float16)
            tl.store(y_at + place * dim_padded + _place(column), x, mask=column < dim_padded)
        behind = width + tl.arange(0, 128)
        at = hidden_at + place * width_padded + _place(behind)
        tl.store(at, tl.zeros((128,), tl.float16), mask=behind < width_padded)


def prepare(
    x: torch.Tensor, chosen: torch.Tensor, hidden: torch.Tensor, width: int, experts: int, first: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The row of each slot, where each of `experts` from `first` on starts [experts + 1], both int32, and rows by expert.

    The rows [slots, padded(dim)] are those of x [tokens, dim] in float16, columns at their places. Slots of other experts have
    none. Pads with zeros, also `hidden` [slots, padded(width)] behind its width.
    """
    dim, slots = x.shape[1], chosen.numel()
    places = torch.empty(slots, dtype=torch.int32, device=x.device)
    sort = slots > _COUNTED_SLOTS
    if sort:
        _, starts = experts_many.sort(chosen, experts, first, places)
    else:
        starts = torch.empty(experts + 1, dtype=torch.int32, device=x.device)
    inputs = torch.empty((slots, padded(dim)), dtype=torch.float16, device=x.device)
    launch = accelerator.launch(x.device)
    _prepare[(slots if sort else experts + 1 + slots,)](
        chosen, places, starts, slots, first, experts, x, x.stride(0), inputs, dim, padded(dim), hidden, width, padded(width),
        TOP=chosen.shape[1], BLOCK=min(1024, max(16, triton.next_power_of_2(slots))),
        COLUMNS=min(1024, triton.next_power_of_2(padded(dim))), SORTED=sort, **launch,
    )  # fmt: skip
    return places, starts, inputs


# ---------------------------------------------------------------- choice and launch


@cache
def reason_not(device: torch.device, kind: str) -> str | None:
    """Why these kernels cannot serve experts in MXFP4 with such an activation; None when they can."""
    if device.type != "cuda" or torch.version.hip is not None:
        return "this kernel is for NVIDIA's cards"
    try:
        import triton.experimental.gluon
    except ImportError:
        return "this Triton has no Gluon"
    if triton.runtime.driver.active.get_current_target().arch != 90:
        return "this kernel is for the matrix units of Hopper"
    return None if kind == "swiglu_clamped" else f"this kernel knows no {kind}"


# As measured for gpt-oss-20b on an H200, by the slots that an expert has on average: often it has twice as many.
_TILINGS = (
    (2, Tiling(8)), (8, Tiling(16)), (16, Tiling(32, registers=96, narrower=True)),
)  # fmt: skip
_WIDE_SLOTS, _WIDE_STAGES = 128, 2


def tiling(experts: int, slots: int) -> Tiling | None:
    """How products of `slots` inputs in all are cut by `experts_hopper_narrow`; None: they are `experts_hopper_wide`'s."""
    return next((tile for most, tile in _TILINGS if slots <= most * experts), None)


def _multiply(
    weight: ExpertMatrix, inputs: torch.Tensor, starts: torch.Tensor, y: torch.Tensor, limit: float | None, tile: Tiling | None
) -> None:
    """Inputs times the rows of their experts into y [slots, columns]; with a limit the gated activation of the rows' halves."""
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from tokenwell.engine.kernels import experts_hopper_narrow, experts_hopper_wide  # which not every Triton can import
    from tokenwell.engine.kernels.experts_hopper_decode import STEP

    def rows(*slots: int) -> list[TensorDescriptor]:
        layout = gl.NVMMASharedLayout(128, 16, 2)
        return [TensorDescriptor.from_tensor(inputs, [some, STEP.value], layout) for some in slots]

    width = weight.rows // 2
    codes = weight.codes.view(2 * weight.experts, width, weight.codes.shape[2])
    units = 8 * tile.warps * tile.repeat if tile else experts_hopper_wide.UNITS.value
    words = TensorDescriptor.from_tensor(codes, [2, units, 32], gl.NVMMASharedLayout(128, 32, 3))
    launch = accelerator.launch(inputs.device)
    shape = {"EXPERTS": weight.experts, "IN": weight.columns, "GATED": limit is not None, **launch}
    later = (len(inputs) - 1) // (tile.slots if tile else _WIDE_SLOTS)  # rounds behind the first of an expert, at most
    given = (weight.scales, weight.bias, starts, y, y.stride(0))
    if tile is None:
        tiles = triton.cdiv(width, experts_hopper_wide.GROUPS.value * units)
        programs = min(accelerator.processors(inputs.device), tiles * (weight.experts + later))
        experts_hopper_wide.product[(programs,)](
            words, *rows(_WIDE_SLOTS, _WIDE_SLOTS // 2, _WIDE_SLOTS // 4), *given, tiles, width, limit or 0.0,
            STAGES=_WIDE_STAGES, num_warps=4, **shape,
        )  # fmt: skip
        return
    experts_hopper_narrow.product[(triton.cdiv(width, units), weight.experts + later)](
        words, *rows(tile.slots), *(rows(tile.slots // 2) if tile.narrower else [None]), *given, width, limit or 0.0,
        STAGES=tile.stages, EARLY=len(inputs) >= 4 * weight.experts, num_warps=tile.warps, maxnreg=tile.registers, **shape,
    )  # fmt: skip


def experts_hopper(
    x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, gate_up: ExpertMatrix, down: ExpertMatrix, kind: str, *,
    limit: float = 0.0, residual: torch.Tensor | None = None, dtype: torch.dtype | None = None, first: int = 0,
    tiles: tuple[Tiling | None, Tiling | None] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Like `experts_few`, for any number of tokens and the kind "swiglu_clamped"."""
    slots, width = chosen.numel(), down.columns
    x = x if x.stride(1) == 1 else x.contiguous()
    chosen, share = chosen.contiguous(), share.contiguous()
    one, two = tiles or (tiling(gate_up.experts, slots), tiling(down.experts, slots))
    hidden = torch.empty((slots, padded(width)), dtype=torch.float16, device=x.device)
    parts = torch.empty((slots, x.shape[1]), dtype=x.dtype, device=x.device)
    places, starts, inputs = prepare(x, chosen, hidden, width, gate_up.experts, first)
    _multiply(gate_up, inputs, starts, hidden, limit, one)
    _multiply(down, hidden, starts, parts, None, two)
    return experts_many.combine(
        parts, chosen, share, residual=residual, dtype=dtype or x.dtype, experts=gate_up.experts, first=first, places=places
    )
