"""The product of `experts_hopper` where experts have few slots, in Gluon, which is Triton's language for one make of card.

Weights and inputs come by the copy engine (TMA) into shared memory, some steps ahead. Programs are many and small, so that some
read while others begin or end.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from tokenwell.engine.kernels.experts_hopper_decode import (
    STEP,
    add_step,
    clamped,
    depend,
    halves,
    loaded_layout,
    place_of,
    rows_of,
    scales_layout,
    sums_layout,
)


@gluon.jit
def _bring_words(words, smem, bars, expert, unit, step, wanted):  # type: ignore[no-untyped-def]
    """A step of words, on its way to its place among those in flight."""
    place = step % smem.shape[0]
    mbarrier.expect(bars.index(place), words.block_type.nbytes, pred=wanted)
    tma.async_copy_global_to_shared(words, [expert * 2, unit, step * 32], bars.index(place), smem.index(place), pred=wanted)


@gluon.jit
def _bring_inputs(inputs, smem, bars, first, step, wanted):  # type: ignore[no-untyped-def]
    """A step of inputs, on its way to its place among those in flight."""
    place = step % bars.shape[0]
    mbarrier.expect(bars.index(place), inputs.block_type.nbytes, pred=wanted)
    tma.async_copy_global_to_shared(inputs, [first, step * STEP], bars.index(place), smem.index(place), pred=wanted)


@gluon.jit
def _await(smem, bars, index):  # type: ignore[no-untyped-def]
    """What has come as the `index`-th."""
    STAGES: gl.constexpr = bars.shape[0]
    mbarrier.wait(bars.index(index % STAGES), (index // STAGES) & 1)
    return smem.index(index % STAGES)


@gluon.jit
def _powers(scales_at, row, step, IN: gl.constexpr, P: gl.constexpr):  # type: ignore[no-untyped-def]
    """Scales [2, R, 8] of a step."""
    STRIDE: gl.constexpr = (IN + 255) // 256 * 8
    block = step * 8 + gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(0, P)))
    at = gl.expand_dims(row * STRIDE, 2) + gl.expand_dims(gl.expand_dims(block, 0), 0)
    return gl.load(scales_at + at, mask=gl.expand_dims(gl.expand_dims(block < STRIDE, 0), 0), other=98)


@gluon.jit
def _finish(  # type: ignore[no-untyped-def]
    total, bias_at, y_at, y_stride, expert, first_unit, first, end, width, limit, GATED: gl.constexpr
):
    """Bias and activation, and what a program is for into y."""
    W: gl.constexpr = gl.num_warps()
    OUT: gl.constexpr = gl.BlockedLayout([1, 1], [32, 1], [1, W], [0, 1])
    UNITS: gl.constexpr = total.shape[0] // 2
    SLOTS: gl.constexpr = total.shape[1]
    top, low = halves(total)
    top, low = gl.convert_layout(top, OUT), gl.convert_layout(low, OUT)
    unit = first_unit + gl.arange(0, UNITS, layout=gl.SliceLayout(1, OUT))
    place = first + gl.arange(0, SLOTS, layout=gl.SliceLayout(0, OUT))
    if bias_at is not None:
        known = gl.minimum(unit, width - 1) + expert * 2 * width
        top += gl.expand_dims(gl.load(bias_at + known).to(gl.float32), 1)
        low += gl.expand_dims(gl.load(bias_at + known + width).to(gl.float32), 1)
    mask = gl.expand_dims(unit < width, 1) & gl.expand_dims(place < end, 0)
    at = y_at + gl.expand_dims(place.to(gl.int64) * y_stride, 0)
    if GATED:
        gl.store(at + gl.expand_dims(place_of(unit), 1), clamped(top, low, limit).to(y_at.dtype.element_ty), mask=mask)
    else:
        at = at + gl.expand_dims(unit, 1)
        gl.store(at, top.to(y_at.dtype.element_ty), mask=mask)
        gl.store(at + width, low.to(y_at.dtype.element_ty), mask=mask)


@gluon.jit
def _round(starts_at, index, EXPERTS: gl.constexpr, SLOTS: gl.constexpr):  # type: ignore[no-untyped-def]
    """The expert and the first slot of a round behind the first of its expert, and where that expert's slots end.

    Round `index` is the one that starts at a slot in [index * SLOTS, (index + 1) * SLOTS), of which there is one or none: later
    rounds are at least SLOTS slots apart. Of none the first slot is behind the last.
    """
    W: gl.constexpr = gl.num_warps()
    L: gl.constexpr = gl.BlockedLayout([1], [32], [W], [0])
    WIDE: gl.constexpr = 1 << (EXPERTS - 1).bit_length()
    each = gl.arange(0, WIDE, layout=L)
    start = gl.load(starts_at + each, mask=each < EXPERTS, other=0)
    end = gl.load(starts_at + each + 1, mask=each < EXPERTS, other=0)
    first = start + gl.maximum((index * SLOTS - start + SLOTS - 1) // SLOTS, 1) * SLOTS
    mine = (first < end) & (first < (index + 1) * SLOTS)
    none: gl.constexpr = 2147483647
    expert = gl.max(gl.where(mine, each, 0), 0)
    return expert, gl.min(gl.where(mine, first, none), 0), gl.max(gl.where(mine, end, 0), 0)


@gluon.jit
def _multiply(  # type: ignore[no-untyped-def]
    words, inputs, w_smem, x_smem, w_bars, x_bars, scales_at, expert, first_unit, first, words_wanted, width, IN: gl.constexpr
):
    """The rows of a program times the inputs of a round, [rows, slots]."""
    W: gl.constexpr = gl.num_warps()
    SLOTS: gl.constexpr = inputs.block_type.shape[0]
    UNITS: gl.constexpr = words.block_type.shape[1]
    STEPS: gl.constexpr = (IN + STEP - 1) // STEP
    AHEAD: gl.constexpr = w_bars.shape[0] - 1
    P: gl.constexpr = scales_layout(W, UNITS)
    for early in gl.static_range(AHEAD):
        _bring_words(words, w_smem, w_bars, expert, first_unit, early, words_wanted & (early < STEPS))
        _bring_inputs(inputs, x_smem, x_bars, first, early, early < STEPS)
    row = rows_of(first_unit, width, UNITS)
    scales_at += expert.to(gl.int64) * (2 * width) * ((IN + 255) // 256 * 8)
    powers = _powers(scales_at, row, 0, IN, P)
    total = gl.zeros((2 * UNITS, SLOTS), gl.float32, layout=sums_layout(W, SLOTS))
    for step in range(STEPS):
        next_powers = _powers(scales_at, row, step + 1, IN, P)
        gl.thread_barrier()  # all have done the step before, whose places are filled again
        _bring_words(words, w_smem, w_bars, expert, first_unit, step + AHEAD, step + AHEAD < STEPS)
        _bring_inputs(inputs, x_smem, x_bars, first, step + AHEAD, step + AHEAD < STEPS)
        loaded = _await(w_smem, w_bars, step).load(loaded_layout(W, UNITS))
        x = _await(x_smem, x_bars, step)
        total = add_step(total, loaded, powers, x, step, IN)
        powers = next_powers
    return total


@gluon.jit
def _serve(  # type: ignore[no-untyped-def]
    words, inputs, w_smem, x_smem, w_bars, x_bars, scales_at, bias_at, y_at, y_stride, expert, first_unit, first, end, some,
    words_wanted, width, limit, IN: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """What a program is for, if `inputs` are read by `some` slots; the shared memory for them may be made for more."""
    SLOTS: gl.constexpr = inputs.block_type.shape[0]
    WIDEST: gl.constexpr = x_smem.shape[1]
    if some == SLOTS:
        places = x_smem._reinterpret(gl.float16, [x_smem.shape[0] * (WIDEST // SLOTS), SLOTS, x_smem.shape[2]], inputs.layout)
        total = _multiply(
            words, inputs, w_smem, places, w_bars, x_bars, scales_at, expert, first_unit, first, words_wanted, width, IN
        )
        _finish(total, bias_at, y_at, y_stride, expert, first_unit, first, end, width, limit, GATED)


@gluon.jit
def product(  # type: ignore[no-untyped-def]
    words, inputs, half_inputs, scales_at, bias_at, starts_at, y_at, y_stride, width, limit,
    EXPERTS: gl.constexpr, IN: gl.constexpr, GATED: gl.constexpr, STAGES: gl.constexpr, EARLY: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Rows of an expert's weight times the inputs of SLOTS of its slots.

    Program (i, e): rows i * UNITS .. of either half for the first slots of expert e; behind the experts come the further rounds
    of those that have more slots. A weight is two halves of `width` rows: gates and values, or whatever comes first and last.
    `words` [experts * 2, width, IN / 8] is read by [2, units, 32], `inputs` [slots, padded IN] by [SLOTS, 256], and in rounds
    of few slots by half as many, where `half_inputs` are given. y [slots, y_stride] gets both halves, or if GATED
    the gated activation at its place. EARLY: first rounds have words on their way before the kernel before has ended, in vain
    where an expert has no slots.
    """
    STEPS: gl.constexpr = (IN + STEP - 1) // STEP
    UNITS: gl.constexpr = words.block_type.shape[1]
    SLOTS: gl.constexpr = inputs.block_type.shape[0]
    expert = gl.program_id(1)
    usual = expert < EXPERTS
    first_unit = gl.program_id(0) * UNITS
    w_smem = gl.allocate_shared_memory(gl.int32, [STAGES, 2, UNITS, 32], words.layout)
    x_smem = gl.allocate_shared_memory(gl.float16, [STAGES, SLOTS, STEP], inputs.layout)
    w_bars = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    x_bars = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for index in gl.static_range(STAGES):
        mbarrier.init(w_bars.index(index), count=1)
        mbarrier.init(x_bars.index(index), count=1)
    hopper.fence_async_shared()
    gl.thread_barrier()
    if EARLY:
        for early in gl.static_range(STAGES - 1):
            _bring_words(words, w_smem, w_bars, expert, first_unit, early, usual & (early < STEPS))
    depend(PDL)
    if usual:
        first = gl.load(starts_at + expert)
        end = gl.load(starts_at + expert + 1)
    else:
        expert, first, end = _round(starts_at, expert - EXPERTS + 1, EXPERTS, SLOTS)
    if first < end:
        some = SLOTS
        if half_inputs is not None:
            some = gl.where(end - first <= SLOTS // 2, SLOTS // 2, some)
        wanted = usual == 0
        if not EARLY:
            wanted = first < end
        if half_inputs is not None:
            _serve(
                words, half_inputs, w_smem, x_smem, w_bars, x_bars, scales_at, bias_at, y_at, y_stride, expert, first_unit,
                first, end, some, wanted, width, limit, IN, GATED,
            )  # fmt: skip
        _serve(
            words, inputs, w_smem, x_smem, w_bars, x_bars, scales_at, bias_at, y_at, y_stride, expert, first_unit, first, end,
            some, wanted, width, limit, IN, GATED,
        )  # fmt: skip
    elif EARLY:
        for early in gl.static_range(STAGES - 1):  # nothing may be on its way to a program that has ended
            mbarrier.wait(w_bars.index(early), 0, pred=usual & (early < STEPS))
