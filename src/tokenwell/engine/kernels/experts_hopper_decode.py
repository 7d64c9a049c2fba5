"""Words of MXFP4 as operands of Hopper's matrix units, in Gluon: Triton's language for one make of card, where layouts of
registers are explicit.

The weight is the register operand of the matrix units: the words that a thread reads hold just the elements that it has to hand
to them, so that nothing is exchanged between threads, and two elements are decoded by two to four instructions. For this
`weights.mxfp4.words` orders the elements of a word, and inputs come in the order of `experts_hopper.place_of`.
Register layout of the operand: PTX ISA, wgmma.mma_async with m64nNk16.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper

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
def loaded_layout(warps, units):  # type: ignore[no-untyped-def]
    # [2, units, 32 words]: a thread has all words of two blocks, which are 128 columns apart, in a row of either half.
    return _layout(warps, units, [32], [[[1], [2]], [[16]]], [[4], [8]])


@gluon.constexpr_function
def scales_layout(warps, units):  # type: ignore[no-untyped-def]
    # [2, units, 8 blocks]
    return _layout(warps, units, [8], [[], [[4]]], [[1], [2]])


@gluon.constexpr_function
def _words_layout(warps, units):  # type: ignore[no-untyped-def]
    # [2, units, 4 blocks, 2 words]
    return _layout(warps, units, [4, 2], [[[0, 1]], []], [[1, 0], [2, 0]])


@gluon.constexpr_function
def sums_layout(warps, slots):  # type: ignore[no-untyped-def]
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
def _quarters(loaded, powers):  # type: ignore[no-untyped-def]
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
    layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=sums_layout(W, SLOTS), k_width=2)
    return gl.convert_layout(gl.reshape(pairs, (2 * UNITS, 64)), layout, assert_trivial=True)


@gluon.jit
def _add(total, words, powers, inputs, COLUMN: gl.constexpr):  # type: ignore[no-untyped-def]
    """total + weights times a quarter of a step's inputs, which is 64 columns of inputs [SLOTS, 256] from COLUMN on.

    Larger parts need more registers than they save; while one product runs, other warps decode.
    """
    some = inputs.slice(COLUMN, 64, dim=1).permute((1, 0))
    sums = hopper.warpgroup_mma(_decode(words, powers, inputs.shape[0]), some, total, is_async=True)
    return hopper.warpgroup_mma_wait(0, deps=[sums])


@gluon.jit
def add_step(total, loaded, powers, inputs, step, IN: gl.constexpr):  # type: ignore[no-untyped-def]
    """total [2 * R, SLOTS] + a step's weights, of words [2, R, 32] and scales [2, R, 8], times its inputs [SLOTS, 256]."""
    words_0, words_1, words_2, words_3, powers_0, powers_1 = _quarters(loaded, powers)
    total = _add(total, words_0, powers_0, inputs, 0)
    total = _add(total, words_1, powers_0, inputs, 64)
    if step * STEP + STEP // 2 < IN:
        total = _add(total, words_2, powers_1, inputs, 128)
        total = _add(total, words_3, powers_1, inputs, 192)
    return total


@gluon.jit
def rows_of(first_unit, width, UNITS: gl.constexpr):  # type: ignore[no-untyped-def]
    """The rows [2, UNITS] of an expert's weight from `first_unit` on in either half, as scales lie; the last is never passed."""
    P: gl.constexpr = scales_layout(gl.num_warps(), UNITS)
    half = gl.arange(0, 2, layout=gl.SliceLayout(1, gl.SliceLayout(2, P)))
    line = gl.arange(0, UNITS, layout=gl.SliceLayout(0, gl.SliceLayout(2, P)))
    return gl.expand_dims(half * width, 1) + gl.expand_dims(gl.minimum(first_unit + line, width - 1), 0)


@gluon.jit
def halves(total):  # type: ignore[no-untyped-def]
    """Sums [2 * R, SLOTS], whose rows are by eights of either half -> both halves [R, SLOTS]."""
    UNITS: gl.constexpr = total.shape[0] // 2
    SLOTS: gl.constexpr = total.shape[1]
    both = gl.permute(gl.reshape(total, (UNITS // 8, 2, 8, SLOTS)), (0, 2, 3, 1))
    top, low = gl.split(gl.reshape(both, (UNITS, SLOTS, 2)))
    return top, low


@gluon.jit
def place_of(unit):  # type: ignore[no-untyped-def]
    """`experts_hopper.place_of`: where the next product wants a column."""
    inner = unit % 128
    return unit - inner + inner % 32 // 2 * 8 + inner // 32 * 2 + inner % 2


@gluon.jit
def clamped(x, value, limit):  # type: ignore[no-untyped-def]
    """Gates and values to what they make."""
    x = gl.minimum(x, limit)
    value = gl.minimum(gl.maximum(value, -limit), limit)
    return (value + 1.0) * x / (1.0 + gl.exp(-1.702 * x))


@gluon.jit
def depend(PDL: gl.constexpr):  # type: ignore[no-untyped-def]
    """Wait for the kernel before, and let the next one begin."""
    if PDL:
        gl.inline_asm_elementwise("griddepcontrol.wait; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // dummy $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1
        )
