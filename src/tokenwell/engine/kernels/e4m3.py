"""e4m3 as bytes, decoded and encoded by their bits, for cards whose compiler refuses the type or is slow with it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from tokenwell.engine.platform import accelerator


@triton.jit
def decoded(codes):  # type: ignore[no-untyped-def]
    """Bytes as the numbers that they are in e4m3, in float16, which holds all of them; what is not bytes stays as it is."""
    if codes.dtype == tl.uint8:
        bits = codes.to(tl.uint16)
        half = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)
        return half * 256.0  # exponents count from 15 there, from 7 here
    else:  # noqa: RET505, one of the two is compiled
        return codes


@triton.jit
def encoded(x):  # type: ignore[no-untyped-def]
    """Numbers in float32 of at most 448 as e4m3 in bytes, rounded to the nearest, of two equally near ones to the even one."""
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = tl.abs(x)
    rest = bits & 0x7FFFFFFF
    normal = ((rest + 0x7FFFF + ((rest >> 20) & 1)) >> 20) - 960  # exponents count from 127 there, from 7 here
    small = (magnitude * 512.0 + 12582912.0).to(tl.uint32, bitcast=True)  # below 2^-6 codes are 2^-9 apart
    return (tl.where(magnitude < 0.015625, small & 0xFF, normal) | ((bits >> 24) & 0x80)).to(tl.uint8)


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor for a kernel that reads it with `decoded` or writes `encoded`: e4m3 as bytes where `knows_e4m3` says no."""
    if tensor.dtype == torch.float8_e4m3fn and not accelerator.knows_e4m3(tensor.device):
        return tensor.view(torch.uint8)
    return tensor
