"""MXFP4 weights inside Triton kernels: words of eight 4-bit floats with a shared power of two for each 32.

Layout on a device: codes [experts, rows, columns / 8] int32, where byte i of a word has element i in its low and element i + 4 in
its high half (`weights.mxfp4.words`), and scales [experts, rows, scale_stride(columns)] uint8, value 2^(scale - 127).
Format: OCP Microscaling Formats (MX) v1.0, sections 5.3.3 (E2M1) and 5.4.1 (E8M0).
"""

from __future__ import annotations

import triton
import triton.language as tl

# A code's sign, exponent and fraction moved to their places in a float32 make its value times 2^-126, which may be
# subnormal. Inputs are multiplied by INPUT_FACTOR so that the products are not, and their sum by OUTPUT_FACTOR: together 2^126.
INPUT_FACTOR = tl.constexpr(2.0**64)
OUTPUT_FACTOR = tl.constexpr(2.0**62)


@triton.constexpr_function
def scale_stride(columns):  # type: ignore[no-untyped-def]
    """Scales of a row as stored: see `weights.experts.scale_columns`."""
    return -(-columns // 256) * 8


@triton.jit
def element(words, INDEX: tl.constexpr):  # type: ignore[no-untyped-def]
    """Element INDEX (0 to 7) of each int32 word in float32, times 2^-126."""
    # The shift to the right copies the sign into the bits above it, of which only the highest is kept.
    moved = (words << (28 - 8 * (INDEX % 4) - 4 * (INDEX // 4))) >> 6
    return (moved & -2118123520).to(tl.float32, bitcast=True)  # 0x81C00000


@triton.jit
def scale(codes):  # type: ignore[no-untyped-def]
    """2^(code - 127) of uint8 codes, in float32; code 0, which would be subnormal, becomes 0."""
    return (codes.to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
def halves(words, powers):  # type: ignore[no-untyped-def]
    """Words [R, W] int32 and scales [R, W / 4] uint8 -> weights [R, 8 * W] in float16.

    Four elements at a time: their bits moved to their places in bytes are e5m2 numbers, 2^-14 of the values. Scales are those
    that `weights.mxfp4.read_packed` leaves: float16 holds them times 2^14.
    """
    low = ((words << 4) & -2139062144) | ((words << 1) & 0x0E0E0E0E)  # 0x80808080
    high = (words & -2139062144) | ((words >> 3) & 0x0E0E0E0E)
    codes = tl.permute(tl.join(_bytes(low), _bytes(high)), (0, 1, 3, 2))
    R: tl.constexpr = words.shape[0]
    W: tl.constexpr = words.shape[1]
    values = tl.reshape(codes, (R, W // 4, 32)).to(tl.float8e5, bitcast=True).to(tl.float16)
    factors = ((powers.to(tl.int16) - 98) << 10).to(tl.int16).to(tl.float16, bitcast=True)  # 2^(power - 127 + 14)
    return tl.reshape(values * factors[:, :, None], (R, 8 * W))


@triton.jit
def _bytes(words):  # type: ignore[no-untyped-def]
    """[R, W] int32 -> [R, W, 4] int8, the lowest byte first."""
    even = tl.join(words.to(tl.int8), (words >> 16).to(tl.int8))
    odd = tl.join((words >> 8).to(tl.int8), (words >> 24).to(tl.int8))
    return tl.reshape(tl.join(even, odd), (words.shape[0], words.shape[1], 4))


@triton.jit
def split_inputs(x):  # type: ignore[no-untyped-def]
    """[A, 8 * B] -> eight tensors [A, B] with elements 0, 1, ... 7 of each group of eight, times INPUT_FACTOR, in float32."""
    x = x.to(tl.float32) * INPUT_FACTOR
    grouped = tl.reshape(x, (x.shape[0], x.shape[1] // 8, 2, 2, 2))
    even, odd = tl.split(grouped)
    even_low, even_high = tl.split(even)
    odd_low, odd_high = tl.split(odd)
    x0, x4 = tl.split(even_low)
    x2, x6 = tl.split(even_high)
    x1, x5 = tl.split(odd_low)
    x3, x7 = tl.split(odd_high)
    return x0, x1, x2, x3, x4, x5, x6, x7
