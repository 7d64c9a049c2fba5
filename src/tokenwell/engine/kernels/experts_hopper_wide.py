"""The product of `experts_hopper` where experts have many slots, in Gluon: a warp that brings, and groups of warps that multiply.

Each program goes from tile to tile. Words and inputs come by the copy engine (TMA) into shared memory, some steps ahead, those
of the next tile while this one ends. Each group multiplies its rows of the tile and waits for no other: one decodes while the
products of others run. So a tile may be large enough to fill a processor on its own, which programs whose warps go in step
cannot use.
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

GROUPS = gl.constexpr(3)  # of four warps that multiply
UNITS = gl.constexpr(32)  # of a group: the same rows of either half
NARROWER = gl.constexpr(2)  # rounds of few slots are of a half or a fourth as many


@gluon.constexpr_function
def _steps(columns):  # type: ignore[no-untyped-def]
    # At least two, because the compiler fails where a loop is none. What lies behind the columns is read as zero.
    return max(2, -(-columns // 256))


@gluon.jit
def _plus(a, b):  # type: ignore[no-untyped-def]
    return a + b


@gluon.jit
def _rounds(starts_at, EXPERTS: gl.constexpr, SLOTS: gl.constexpr):  # type: ignore[no-untyped-def]
    """By expert, where its slots start and end, and the rounds up to its last; and how many in all."""
    WIDE: gl.constexpr = max(32, 1 << (EXPERTS - 1).bit_length())
    each = gl.arange(0, WIDE, layout=gl.BlockedLayout([WIDE // 32], [32], [gl.num_warps()], [0]))
    start = gl.load(starts_at + each, mask=each < EXPERTS, other=0)
    end = gl.load(starts_at + each + 1, mask=each < EXPERTS, other=0)
    count = (end - start + SLOTS - 1) // SLOTS
    return start, end, gl.associative_scan(count, 0, _plus), gl.sum(count, 0)


@gluon.jit
def _task(start, end, upto, tile, tiles_a_round, SLOTS: gl.constexpr):  # type: ignore[no-untyped-def]
    """Of a tile: the expert, its round's slots from the first up to the expert's last, and the tile's place in the weight."""
    index = tile // tiles_a_round
    before = upto - (end - start + SLOTS - 1) // SLOTS
    mine = (before <= index) & (index < upto)
    each = gl.arange(0, start.shape[0], layout=start.type.layout)
    expert = gl.max(gl.where(mine, each, 0), 0)
    first = gl.max(gl.where(mine, start + (index - before) * SLOTS, 0), 0)
    return expert, first, gl.max(gl.where(mine, end, 0), 0), tile % tiles_a_round


@gluon.jit
def _narrowed(slots, SLOTS: gl.constexpr):  # type: ignore[no-untyped-def]
    """How many slots are multiplied where there are so many: SLOTS, halved up to NARROWER times."""
    some = SLOTS
    for narrower in gl.static_range(1, NARROWER + 1):
        some = gl.where(slots <= SLOTS >> narrower, SLOTS >> narrower, some)
    return some


@gluon.jit
def _places(x_smem, SLOTS: gl.constexpr):  # type: ignore[no-untyped-def]
    """The places of inputs, each for SLOTS of as many as it has, and how far they are apart."""
    APART: gl.constexpr = x_smem.shape[1] // SLOTS
    return x_smem._reinterpret(gl.float16, [x_smem.shape[0] * APART, SLOTS, STEP], x_smem.layout), APART


# ---------------------------------------------------------------- the warp that brings


@gluon.jit
def _bring_words(  # type: ignore[no-untyped-def]
    words, w_smem, ready, expert, part, step, place, some, SLOTS: gl.constexpr
):
    """A step's words, on their way; the inputs of `some` slots are to come to the same place."""
    for narrower in gl.static_range(NARROWER + 1):
        if some == SLOTS >> narrower:
            mbarrier.expect(ready.index(place), GROUPS * words.block_type.nbytes + (SLOTS >> narrower) * STEP * 2)
    for group in gl.static_range(GROUPS):
        tma.async_copy_global_to_shared(
            words, [expert * 2, (part * GROUPS + group) * UNITS, step * 32], ready.index(place),
            w_smem.index(place * GROUPS + group),
        )  # fmt: skip


@gluon.jit
def _bring_inputs(inputs, x_smem, ready, first, step, place, some):  # type: ignore[no-untyped-def]
    """A step's inputs, if as many are wanted as these are."""
    SLOTS: gl.constexpr = inputs.block_type.shape[0]
    if some == SLOTS:
        places, apart = _places(x_smem, SLOTS)
        tma.async_copy_global_to_shared(inputs, [first, step * STEP], ready.index(place), places.index(place * apart))


@gluon.jit
def _bringing(  # type: ignore[no-untyped-def]
    words, inputs, half_inputs, fourth_inputs, w_smem, x_smem, ready, free, starts_at, tiles_a_round,
    EXPERTS: gl.constexpr, IN: gl.constexpr, SLOTS: gl.constexpr,
):  # fmt: skip
    STAGES: gl.constexpr = ready.shape[0]
    STEPS: gl.constexpr = _steps(IN)
    start, end, upto, rounds = _rounds(starts_at, EXPERTS, SLOTS)
    tiles = rounds * tiles_a_round
    brought = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        expert, first, last, part = _task(start, end, upto, tile, tiles_a_round, SLOTS)
        some = _narrowed(last - first, SLOTS)
        for step in range(STEPS):
            place = brought % STAGES
            mbarrier.wait(free.index(place), (brought // STAGES & 1) ^ 1)
            _bring_words(words, w_smem, ready, expert, part, step, place, some, SLOTS)
            _bring_inputs(inputs, x_smem, ready, first, step, place, some)
            _bring_inputs(half_inputs, x_smem, ready, first, step, place, some)
            _bring_inputs(fourth_inputs, x_smem, ready, first, step, place, some)
            brought += 1


# ---------------------------------------------------------------- groups that multiply


@gluon.jit
def _powers_at(scales_at, expert, first_unit, width, IN: gl.constexpr):  # type: ignore[no-untyped-def]
    """Where an expert's scales are, and where in them a group's [2, R, 8] of a tile's first step."""
    P: gl.constexpr = scales_layout(4, UNITS)
    STRIDE: gl.constexpr = (IN + 255) // 256 * 8
    row = rows_of(first_unit, width, UNITS)
    block = gl.expand_dims(gl.expand_dims(gl.arange(0, 8, layout=gl.SliceLayout(0, gl.SliceLayout(0, P))), 0), 0)
    return scales_at + expert.to(gl.int64) * (2 * width * STRIDE), gl.expand_dims(row * STRIDE, 2) + block


@gluon.jit
def _multiply(  # type: ignore[no-untyped-def]
    w_smem, x_smem, ready, free, bias_at, y_at, y_stride, expert, first, last, first_unit, width, limit, done, powers, at, offset,
    next_at, next_offset, GROUP: gl.constexpr, IN: gl.constexpr, SLOTS: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    """A group's rows of a tile times the inputs of its round into y; returns the scales of the next tile's first step.

    `done` steps of earlier tiles were multiplied, `powers` are the scales of this tile's first.
    """
    STAGES: gl.constexpr = ready.shape[0]
    STEPS: gl.constexpr = _steps(IN)
    places, apart = _places(x_smem, SLOTS)
    total = gl.zeros((2 * UNITS, SLOTS), gl.float32, layout=sums_layout(4, SLOTS))
    top, low = halves(total)
    ROWS: gl.constexpr = gl.SliceLayout(1, top.type.layout)
    top_bias = gl.zeros((UNITS,), gl.float32, layout=ROWS)
    low_bias = top_bias
    if bias_at is not None:
        known = gl.minimum(first_unit + gl.arange(0, UNITS, layout=ROWS), width - 1) + expert * 2 * width
        top_bias = gl.load(bias_at + known).to(gl.float32)
        low_bias = gl.load(bias_at + known + width).to(gl.float32)
    for step in range(STEPS):
        if step + 1 < STEPS:
            next_powers = gl.load(at + (offset + (step + 1) * 8 * (IN > STEP)))
        else:
            next_powers = gl.load(next_at + next_offset)
        place = done % STAGES
        mbarrier.wait(ready.index(place), done // STAGES & 1)
        loaded = w_smem.index(place * GROUPS + GROUP).load(loaded_layout(4, UNITS))
        x = places.index(place * apart)
        total = add_step(total, loaded, powers, x, step, IN)
        gl.thread_barrier()  # all four warps have read what is brought anew from here on
        mbarrier.arrive(free.index(place), count=1)
        done += 1
        powers = next_powers
    top, low = halves(total)
    top += gl.expand_dims(top_bias, 1)
    low += gl.expand_dims(low_bias, 1)
    # Rows of y are written by 16 bytes, which takes an exchange between threads; gated columns lie apart anyway.
    OUT: gl.constexpr = top.type.layout if GATED else gl.BlockedLayout([8, 1], [4, 8], [1, 4], [0, 1])
    unit = first_unit + gl.arange(0, UNITS, layout=gl.SliceLayout(1, OUT))
    slot = first + gl.arange(0, SLOTS, layout=gl.SliceLayout(0, OUT))
    mask = gl.expand_dims(unit < width, 1) & gl.expand_dims(slot < last, 0)
    out = y_at + gl.expand_dims(slot.to(gl.int64) * y_stride, 0)
    if GATED:
        gl.store(out + gl.expand_dims(place_of(unit), 1), clamped(top, low, limit).to(y_at.dtype.element_ty), mask=mask)
    else:
        out = out + gl.expand_dims(unit, 1)
        gl.store(out, gl.convert_layout(top.to(y_at.dtype.element_ty), OUT), mask=mask)
        gl.store(out + width, gl.convert_layout(low.to(y_at.dtype.element_ty), OUT), mask=mask)
    return powers


@gluon.jit
def _multiplying(  # type: ignore[no-untyped-def]
    w_smem, x_smem, ready, free, scales_at, bias_at, starts_at, y_at, y_stride, tiles_a_round, width, limit,
    GROUP: gl.constexpr, EXPERTS: gl.constexpr, IN: gl.constexpr, SLOTS: gl.constexpr, GATED: gl.constexpr,
):  # fmt: skip
    start, end, upto, rounds = _rounds(starts_at, EXPERTS, SLOTS)
    tiles = rounds * tiles_a_round
    expert, first, last, part = _task(start, end, upto, gl.program_id(0), tiles_a_round, SLOTS)
    at, offset = _powers_at(scales_at, expert, (part * GROUPS + GROUP) * UNITS, width, IN)
    powers = gl.load(at + offset)
    done = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        following = gl.minimum(tile + gl.num_programs(0), tiles - 1)
        next_expert, next_first, next_last, next_part = _task(start, end, upto, following, tiles_a_round, SLOTS)
        next_at, next_offset = _powers_at(scales_at, next_expert, (next_part * GROUPS + GROUP) * UNITS, width, IN)
        some = _narrowed(last - first, SLOTS)
        for narrower in gl.static_range(NARROWER + 1):
            if some == SLOTS >> narrower:
                powers = _multiply(
                    w_smem, x_smem, ready, free, bias_at, y_at, y_stride, expert, first, last,
                    (part * GROUPS + GROUP) * UNITS, width, limit, done, powers, at, offset,
                    next_at, next_offset, GROUP, IN, SLOTS >> narrower, GATED,
                )  # fmt: skip
        done += _steps(IN)
        expert, first, last, part = next_expert, next_first, next_last, next_part
        at, offset = next_at, next_offset


@gluon.jit
def product(  # type: ignore[no-untyped-def]
    words, inputs, half_inputs, fourth_inputs, scales_at, bias_at, starts_at, y_at, y_stride, tiles_a_round, width, limit,
    EXPERTS: gl.constexpr, IN: gl.constexpr, GATED: gl.constexpr, STAGES: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Rows of experts' weights times the inputs of their slots.

    A tile is GROUPS * UNITS rows of either half of an expert's weight, of which `tiles_a_round` are all, for up to SLOTS of its
    slots; every program does each so many-th tile as there are programs. A weight is two halves of `width` rows: gates and
    values, or whatever comes first and last. `words` [experts * 2, width, IN / 8] is read by [2, UNITS, 32], `inputs` [slots,
    padded IN] by [SLOTS, STEP], or by half and a fourth of that; STAGES steps are on their way.
    y [slots, y_stride] gets both halves, or if GATED the gated activation at its place.
    """
    SLOTS: gl.constexpr = inputs.block_type.shape[0]
    w_smem = gl.allocate_shared_memory(gl.int32, [STAGES * GROUPS, 2, UNITS, 32], words.layout)
    x_smem = gl.allocate_shared_memory(gl.float16, [STAGES, SLOTS, STEP], inputs.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for index in gl.static_range(STAGES):
        mbarrier.init(ready.index(index), count=1)
        mbarrier.init(free.index(index), count=GROUPS)
    hopper.fence_async_shared()
    gl.thread_barrier()
    depend(PDL)
    gl.warp_specialize(
        [
            (_multiplying, (
                w_smem, x_smem, ready, free, scales_at, bias_at, starts_at, y_at, y_stride, tiles_a_round, width, limit,
                0, EXPERTS, IN, SLOTS, GATED,
            )),
            (_multiplying, (
                w_smem, x_smem, ready, free, scales_at, bias_at, starts_at, y_at, y_stride, tiles_a_round, width, limit,
                1, EXPERTS, IN, SLOTS, GATED,
            )),
            (_multiplying, (
                w_smem, x_smem, ready, free, scales_at, bias_at, starts_at, y_at, y_stride, tiles_a_round, width, limit,
                2, EXPERTS, IN, SLOTS, GATED,
            )),
            (_bringing, (
                words, inputs, half_inputs, fourth_inputs, w_smem, x_smem, ready, free, starts_at, tiles_a_round,
                EXPERTS, IN, SLOTS,
            )),
        ],
        [4, 4, 1], [160, 160, 32],
    )  # fmt: skip
