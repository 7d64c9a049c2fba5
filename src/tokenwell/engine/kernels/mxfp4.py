"""MXFP4 weights inside Triton kernels: words of eight 4-bit floats with a shared power of two for each 32.

Layout on a device: codes [experts, rows, columns / 8] int32 (`weights.mxfp4.words`) and scales
[experts, rows, scale_stride(columns)] uint8, value 2^(scale - 127).
Format: OCP Microscaling Formats (MX) v1.0, sections 5.3.3 (E2M1) and 5.4.1 (E8M0).
"""

from __future__ import annotations

import triton
import triton.language as tl

# A code's sign, exponent and fraction at their places in a float16 make its value times 2^-14, exactly; this is the inverse.
FACTOR = tl.constexpr(2.0**14)
_PLACES = tl.constexpr(-1912566272)  # 0x8E008E00, these places in both halves of a word


@triton.constexpr_function
def scale_stride(columns):  # type: ignore[no-untyped-def]
    """Scales of a row as stored: see `weights.experts.scale_columns`."""
    return -(-columns // 256) * 8


@triton.jit
def element(words, INDEX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Element INDEX (0 to 7) of each int32 word in float16, times 2^-14."""
    pair = _pair(words, INDEX // 2)
    return (pair >> (16 * (INDEX % 2))).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _pair(words, INDEX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Elements 2 * INDEX and 2 * INDEX + 1 of each word as the halves of an int32."""
    if INDEX == 0:
        return words & _PLACES
    elif INDEX == 1:  # noqa: RET505, one of them is compiled
        return (words << 3) & _PLACES
    elif INDEX == 2:  # a product is two shifts: the sign by one and the rest by six
        return ((words & 0x40384038) * 66) & _PLACES
    else:
        return ((words & 0x20072007) * 516) & _PLACES


@triton.jit
def scale(codes):  # type: ignore[no-untyped-def]
    """2^(code - 127) of uint8 codes, in float32; code 0, which would be subnormal, becomes 0."""
    return (codes.to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
def elements(words):  # type: ignore[no-untyped-def]
    """[A, B] int32 -> [A, B, 8] in float16, times 2^-14."""
    first = tl.join(tl.join(element(words, 0), element(words, 4)), tl.join(element(words, 2), element(words, 6)))
    second = tl.join(tl.join(element(words, 1), element(words, 5)), tl.join(element(words, 3), element(words, 7)))
    return tl.reshape(tl.join(first, second), (words.shape[0], words.shape[1], 8))


@triton.jit
def halves(words, powers):  # type: ignore[no-untyped-def]
    """Words [R, W] int32 and scales [R, W / 4] uint8 -> weights [R, 8 * W] in float16.

    Scales are those that `weights.mxfp4.read_packed` leaves: float16 holds them times 2^14.
    """
    R: tl.constexpr = words.shape[0]
    W: tl.constexpr = words.shape[1]
    factors = ((powers.to(tl.int16) - 98) << 10).to(tl.int16).to(tl.float16, bitcast=True)  # 2^(power - 127 + 14)
    return tl.reshape(tl.reshape(elements(words), (R, W // 4, 32)) * factors[:, :, None], (R, 8 * W))


@triton.jit
def split_inputs(x):  # type: ignore[no-untyped-def]
    """[A, 8 * B] -> eight tensors [A, B] with elements 0, 1, ... 7 of each group of eight, in float32."""
    grouped = tl.reshape(x.to(tl.float32), (x.shape[0], x.shape[1] // 8, 2, 2, 2))
    even, odd = tl.split(grouped)
    even_low, even_high = tl.split(even)
    odd_low, odd_high = tl.split(odd)
    x0, x4 = tl.split(even_low)
    x2, x6 = tl.split(even_high)
    x1, x5 = tl.split(odd_low)
    x3, x7 = tl.split(odd_high)
    return x0, x1, x2, x3, x4, x5, x6, x7
