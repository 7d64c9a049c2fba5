"""The product of `experts_hopper`, in Gluon: Triton's language for one make of card, where layouts of registers are explicit.

The weight is the register operand of the matrix units: the words that a thread reads hold just the elements that it has to hand
to them, so that nothing is exchanged between threads, and two elements are decoded by two to four instructions. For this
`weights.mxfp4.words` orders the elements of a word, and inputs come in the order of `experts_hopper.place_of`. Weights and
inputs come by the copy engine (TMA) into shared memory, some steps ahead.
Register layout of the operand: PTX ISA, wgmma.mma_async with m64nNk16.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

STEP = gl.constexpr(256)  # columns of words at a time: 32 words, the 128 bytes of a row that the copy engine can swizzle


@gluon.constexpr_function
def _layout(warps, units, inner, registers, lanes):  # type: ignore[no-untyped-def]
    # [2, units, *inner]: eight units for the lanes, eight times as many for the warps, and the rest as both halves in registers.
    none = [0] * len(inner)
    groups = [[0, 8 << bit, *none] for bit in range((units // 8).bit_length() - 1)]
    of_warps = warps.bit_length() - 1
    first = [[0, 0, *base] for base in registers[0]] + [[1, 0, *none]] + [[0, 0, *base] for base in registers[1]]
    threads = [[0, 0, *base] for base in lanes] + [[0, 1 << bit, *none] for bit in range(3)]
    return gl.DistributedLinearLayout(first + groups[of_warps:], threads, groups[:of_warps], [], [2, units, *inner])


@gluon.constexpr_function
def _loaded_layout(warps, units):  # type: ignore[no-untyped-def]
    # [2, units, 32 words]: a thread has all words of two blocks, which are 128 columns apart, in a row of either half.
    return _layout(warps, units, [32], [[[1], [2]], [[16]]], [[4], [8]])


@gluon.constexpr_function
def _scales_layout(warps, units):  # type: ignore[no-untyped-def]
    # [2, units, 8 blocks]
    return _layout(warps, units, [8], [[], [[4]]], [[1], [2]])


@gluon.constexpr_function
def _words_layout(warps, units):  # type: ignore[no-untyped-def]
    # [2, units, 4 blocks, 2 words]
    return _layout(warps, units, [4, 2], [[[0, 1]], []], [[1, 0], [2, 0]])


@gluon.constexpr_function
def _sums_layout(warps, slots):  # type: ignore[no-untyped-def]
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[warps, 1], instr_shape=[16, slots, 16])


@gluon.constexpr_function
def _decoder():  # type: ignore[no-untyped-def]
    # Two words (inputs 0 and 1) to eight pairs in float16, times their factors (inputs 2 and 3, which are the same). Pairs are
    # where `weights.mxfp4.words` places them; a product by 66 is a shift of the sign by one and of the rest by six.
    lines = ["{ .reg .b32 t;"]
    for word in range(2):
        out, given = 4 * word, 8 + word
        lines += [
            f"and.b32 ${out}, ${given}, 0x8E008E00;",
            f"shl.b32 t, ${given}, 3;",
            f"and.b32 ${out + 1}, t, 0x8E008E00;",
            f"and.b32 t, ${given}, 0x40384038;",
            "mul.lo.u32 t, t, 66;",
            f"and.b32 ${out + 2}, t, 0x8E008E00;",
            f"and.b32 t, ${given}, 0x20072007;",
            "mul.lo.u32 t, t, 516;",
            f"and.b32 ${out + 3}, t, 0x8E008E00;",
        ]
        lines += [f"mul.rn.f16x2 ${out + pair}, ${out + pair}, $10;" for pair in range(4)]
    return "\n".join([*lines, "}"])


@gluon.jit
def _groups(loaded, powers):  # type: ignore[no-untyped-def]
    """Words [2, R, 32] and scales [2, R, 8] -> words of four quarters [2, R, 4, 2] and scales of two halves [2, R, 4]."""
    UNITS: gl.constexpr = loaded.shape[1]
    words = gl.permute(gl.reshape(loaded, (2, UNITS, 2, 4, 2, 2)), (0, 1, 3, 5, 4, 2))
    first, last = gl.split(words)
    words_0, words_1 = gl.split(first)
    words_2, words_3 = gl.split(last)
    powers_0, powers_1 = gl.split(gl.permute(gl.reshape(powers, (2, UNITS, 2, 4)), (0, 1, 3, 2)))
    return words_0, words_1, words_2, words_3, powers_0, powers_1


@gluon.jit
def _decode(words, powers, SLOTS: gl.constexpr):  # type: ignore[no-untyped-def]
    """Words [2, R, 4, 2] and scales [2, R, 4] -> weights [2 * R, 64] in float16, as the operand of a product.

    Of each 16 rows of it 8 are of the first half. What looks like moves are names: every element stays in its thread.
    """
    W: gl.constexpr = gl.num_warps()
    UNITS: gl.constexpr = words.shape[1]
    L: gl.constexpr = _words_layout(W, UNITS)
    words = gl.convert_layout(words, L, assert_trivial=True)
    powers = gl.convert_layout(powers, gl.SliceLayout(3, L), assert_trivial=True)
    factor = (powers.to(gl.int32) - 98) * 0x04000400  # 2^(power - 127 + 14) in either half
    p0, p1, p2, p3, p4, p5, p6, p7 = gl.inline_asm_elementwise(
        _decoder(), "=&r,=&r,=&r,=&r,=&r,=&r,=&r,=&r,r,r,r,r", [words, gl.expand_dims(factor, 3)],
        dtype=(gl.float16, gl.float16, gl.float16, gl.float16, gl.float16, gl.float16, gl.float16, gl.float16), is_pure=True,
        pack=2,
    )  # fmt: skip
    even = gl.join(gl.join(p0, p4), gl.join(p2, p6))
    odd = gl.join(gl.join(p1, p5), gl.join(p3, p7))
    pairs = gl.reshape(gl.join(even, odd), (2, UNITS // 8, 8, 4, 2, 2, 2, 2))
    pairs = gl.permute(pairs, (1, 0, 2, 5, 6, 7, 3, 4))
    layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=_sums_layout(W, SLOTS), k_width=2)
    return gl.convert_layout(gl.reshape(pairs, (2 * UNITS, 64)), layout, assert_trivial=True)


@gluon.jit
def _add(total, words, powers, inputs, COLUMN: gl.constexpr):  # type: ignore[no-untyped-def]
    """total + weights times a quarter of a step's inputs, which is 64 columns of inputs [SLOTS, 256 or 128].

    Larger parts need more registers than they save; while one product runs, other warps decode.
    """
    some = inputs.slice(COLUMN % inputs.shape[1], 64, dim=1).permute((1, 0))
    sums = hopper.warpgroup_mma(_decode(words, powers, inputs.shape[0]), some, total, is_async=True)
    return hopper.warpgroup_mma_wait(0, deps=[sums])


@gluon.jit
def _bring_words(words, smem, bars, expert, unit, step, wanted):  # type: ignore[no-untyped-def]
    """A step of words, on its way to its place among those in flight."""
    place = step % smem.shape[0]
    mbarrier.expect(bars.index(place), words.block_type.nbytes, pred=wanted)
    tma.async_copy_global_to_shared(words, [expert * 2, unit, step * 32], bars.index(place), smem.index(place), pred=wanted)


@gluon.jit
def _bring_inputs(inputs, smem, bars, first, piece, wanted):  # type: ignore[no-untyped-def]
    """A piece of inputs, which is a step or half of one, on its way to its place among those in flight."""
    place = piece % bars.shape[0]
    mbarrier.expect(bars.index(place), inputs.block_type.nbytes, pred=wanted)
    column = piece * inputs.block_type.shape[1]
    tma.async_copy_global_to_shared(inputs, [first, column], bars.index(place), smem.index(place), pred=wanted)


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
def _clamped(x, value, limit):  # type: ignore[no-untyped-def]
    x = gl.minimum(x, limit)
    value = gl.minimum(gl.maximum(value, -limit), limit)
    return (value + 1.0) * x / (1.0 + gl.exp(-1.702 * x))


@gluon.jit
def _depend(PDL: gl.constexpr):  # type: ignore[no-untyped-def]
    if PDL:
        gl.inline_asm_elementwise("griddepcontrol.wait; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def _finish(  # type: ignore[no-untyped-def]
    total, bias_at, y_at, y_stride, expert, first_unit, first, end, width, limit, GATED: gl.constexpr
):
    """Bias and activation, and what a program is for into y."""
    W: gl.constexpr = gl.num_warps()
    OUT: gl.constexpr = gl.BlockedLayout([1, 1], [32, 1], [1, W], [0, 1])
    UNITS: gl.constexpr = total.shape[0] // 2
    SLOTS: gl.constexpr = total.shape[1]
    both = gl.permute(gl.reshape(total, (UNITS // 8, 2, 8, SLOTS)), (0, 2, 3, 1))
    top, low = gl.split(gl.reshape(both, (UNITS, SLOTS, 2)))
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
        inner = unit % 128
        column = unit - inner + inner % 32 // 2 * 8 + inner // 32 * 2 + inner % 2
        gl.store(at + gl.expand_dims(column, 1), _clamped(top, low, limit).to(y_at.dtype.element_ty), mask=mask)
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
    COLUMNS: gl.constexpr = inputs.block_type.shape[1]
    PIECES: gl.constexpr = (IN + COLUMNS - 1) // COLUMNS
    STEPS: gl.constexpr = (IN + STEP - 1) // STEP
    AHEAD: gl.constexpr = w_bars.shape[0] - 1
    P: gl.constexpr = _scales_layout(W, UNITS)
    for early in gl.static_range(AHEAD):
        _bring_words(words, w_smem, w_bars, expert, first_unit, early, words_wanted & (early < STEPS))
        _bring_inputs(inputs, x_smem, x_bars, first, early, early < PIECES)
    half = gl.arange(0, 2, layout=gl.SliceLayout(1, gl.SliceLayout(2, P)))
    line = gl.arange(0, UNITS, layout=gl.SliceLayout(0, gl.SliceLayout(2, P)))
    row = gl.expand_dims(half * width, 1) + gl.expand_dims(gl.minimum(first_unit + line, width - 1), 0)
    scales_at += expert.to(gl.int64) * (2 * width) * ((IN + 255) // 256 * 8)
    powers = _powers(scales_at, row, 0, IN, P)
    total = gl.zeros((2 * UNITS, SLOTS), gl.float32, layout=_sums_layout(W, SLOTS))
    for step in range(STEPS):
        next_powers = _powers(scales_at, row, step + 1, IN, P)
        piece = step * (STEP // COLUMNS)
        gl.thread_barrier()  # all have done the step before, whose places are filled again
        _bring_words(words, w_smem, w_bars, expert, first_unit, step + AHEAD, step + AHEAD < STEPS)
        _bring_inputs(inputs, x_smem, x_bars, first, piece + AHEAD, piece + AHEAD < PIECES)
        loaded = _await(w_smem, w_bars, step).load(_loaded_layout(W, UNITS))
        x = _await(x_smem, x_bars, piece)
        words_0, words_1, words_2, words_3, powers_0, powers_1 = _groups(loaded, powers)
        total = _add(total, words_0, powers_0, x, 0)
        total = _add(total, words_1, powers_0, x, 64)
        if step * STEP + STEP // 2 < IN:
            if COLUMNS < STEP:
                piece += 1
                gl.thread_barrier()
                _bring_inputs(inputs, x_smem, x_bars, first, piece + AHEAD, piece + AHEAD < PIECES)
                x = _await(x_smem, x_bars, piece)
            total = _add(total, words_2, powers_1, x, 128)
            total = _add(total, words_3, powers_1, x, 192)
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
    words, inputs, half_inputs, fourth_inputs, scales_at, bias_at, starts_at, y_at, y_stride, width, limit,
    EXPERTS: gl.constexpr, IN: gl.constexpr, GATED: gl.constexpr, STAGES: gl.constexpr, EARLY: gl.constexpr, PDL: gl.constexpr,
):  # fmt: skip
    """Rows of an expert's weight times the inputs of SLOTS of its slots.

    Program (i, e): rows i * UNITS .. of either half for the first slots of expert e; behind the experts come the further rounds
    of those that have more slots. A weight is two halves of `width` rows: gates and values, or whatever comes first and last.
    `words` [experts * 2, width, IN / 8] is read by [2, units, 32], `inputs` [slots, padded IN] by [SLOTS, 256 or 128], and in
    rounds of few slots by half and a fourth as many, where these are given. y [slots, y_stride] gets both halves, or if GATED
    the gated activation at its place. EARLY: first rounds have words on their way before the kernel before has ended, in vain
    where an expert has no slots.
    """
    STEPS: gl.constexpr = (IN + STEP - 1) // STEP
    UNITS: gl.constexpr = words.block_type.shape[1]
    SLOTS: gl.constexpr = inputs.block_type.shape[0]
    COLUMNS: gl.constexpr = inputs.block_type.shape[1]
    expert = gl.program_id(1)
    usual = expert < EXPERTS
    first_unit = gl.program_id(0) * UNITS
    w_smem = gl.allocate_shared_memory(gl.int32, [STAGES, 2, UNITS, 32], words.layout)
    x_smem = gl.allocate_shared_memory(gl.float16, [STAGES, SLOTS, COLUMNS], inputs.layout)
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
    _depend(PDL)
    if usual:
        first = gl.load(starts_at + expert)
        end = gl.load(starts_at + expert + 1)
    else:
        expert, first, end = _round(starts_at, expert - EXPERTS + 1, EXPERTS, SLOTS)
    if first < end:
        some = SLOTS
        if half_inputs is not None:
            some = gl.where(end - first <= SLOTS // 2, SLOTS // 2, some)
        if fourth_inputs is not None:
            some = gl.where(end - first <= SLOTS // 4, SLOTS // 4, some)
        wanted = usual == 0
        if not EARLY:
            wanted = first < end
        if half_inputs is not None:
            _serve(
                words, half_inputs, w_smem, x_smem, w_bars, x_bars, scales_at, bias_at, y_at, y_stride, expert, first_unit,
                first, end, some, wanted, width, limit, IN, GATED,
            )  # fmt: skip
        if fourth_inputs is not None:
            _serve(
                words, fourth_inputs, w_smem, x_smem, w_bars, x_bars, scales_at, bias_at, y_at, y_stride, expert, first_unit,
                first, end, some, wanted, width, limit, IN, GATED,
            )  # fmt: skip
        _serve(
            words, inputs, w_smem, x_smem, w_bars, x_bars, scales_at, bias_at, y_at, y_stride, expert, first_unit, first, end,
            some, wanted, width, limit, IN, GATED,
        )  # fmt: skip
    elif EARLY:
        for early in gl.static_range(STAGES - 1):  # nothing may be on its way to a program that has ended
            mbarrier.wait(w_bars.index(early), 0, pred=usual & (early < STEPS))
