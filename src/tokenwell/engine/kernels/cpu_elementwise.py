"""Norms, gated activations and rotary embedding on x86 CPUs, in bfloat16 with float32 inside and one rounding.

torch takes several passes for each of them, and several calls, which is what counts when one token decodes. The code comes
from `cpu_elementwise_code`; little work is done on the calling thread, more on torch's OpenMP threads.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tokenwell.engine.kernels import cpu_pool

INLINE = 16384  # elements up to which one thread is faster than waking the others
GATED = ("silu", "gelu_tanh")


@dataclass(frozen=True)
class Kernel:
    """One compiled function."""

    kind: str
    call: Callable[[int], None]  # on this thread
    run: Callable[..., None]  # GOMP_parallel
    address: int
    step: int  # elements in the least row
    code: object  # owns the machine code


def reason_not(width: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why rows of `width` (for rope: half of what rotates) cannot be served on this machine; None if they can."""
    reason = cpu_pool.reason_not(dtype, device)
    if reason is not None:
        return reason
    step = 2 * cpu_pool.host().lanes
    return None if width >= step else f"a row of {width} is smaller than one step of {step}"


def rope_reason_not(dim: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """The same for `rope_` of `dim` channels."""
    reason = reason_not(dim // 2, dtype, device)
    if reason is None and dim % (4 * cpu_pool.host().lanes):
        return f"{dim} rotating channels are not a multiple of {4 * cpu_pool.host().lanes}"
    return reason


_compiling = threading.Lock()


def prepare(kind: str) -> Kernel:
    """Code for one of cpu_elementwise_code.KINDS. The first call for a kind compiles, in about 0.03 s."""
    with _compiling:
        return _compiled(kind)


@functools.cache
def _compiled(kind: str) -> Kernel:
    return kernel_for(cpu_pool.host(), kind)


def kernel_for(isa: Any, kind: str) -> Kernel:
    """Code for one instruction set (a cpu_ir.Isa), which need not be the widest that the CPU has."""
    from tokenwell.engine.kernels import cpu_elementwise_code

    code = cpu_elementwise_code.compile_kernel(isa, kind)
    run = cpu_pool.thread_pool()
    assert run is not None
    return Kernel(kind, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address), run, code.address, 2 * isa.lanes, code)


def gated(kernel: Kernel, x: torch.Tensor) -> torch.Tensor:
    """activation(gate) * value: [..., 2 * width] -> [..., width], the gate in the first half of x."""
    twice = x.shape[-1]
    rows = _matrix(kernel, x, twice // 2)
    _check_kind(kernel, *GATED)
    count, width = rows.shape[0], twice // 2
    y = x.new_empty((*x.shape[:-1], width))
    stride = rows.stride(0)
    _go(kernel, count, 2 * twice, rows.data_ptr(), stride, y.data_ptr(), width, rows.data_ptr() + width * x.itemsize, stride)
    return y


def times(kernel: Kernel, gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """activation(gate) * value of two tensors [tokens, width]."""
    width = gate.shape[-1]
    if gate.dim() != 2 or value.shape != gate.shape:
        raise ValueError(f"a gate {tuple(gate.shape)} does not fit values {tuple(value.shape)}")
    _check_kind(kernel, *GATED)
    gate, value = _matrix(kernel, gate, width), _matrix(kernel, value, width)
    y = gate.new_empty(gate.shape)
    _go(kernel, gate.shape[0], 4 * width, gate.data_ptr(), gate.stride(0), y.data_ptr(), width, value.data_ptr(), value.stride(0))
    return y


def rms_norm(kernel: Kernel, x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    A weight [heads, dim] has one row for each of the heads in x [tokens, heads, dim]. The kernel is `rms_norm`, or
    `rms_norm_plain` without weight.
    """
    heads, dim = 1, x.shape[-1]
    if weight is None:
        _check_kind(kernel, "rms_norm_plain")
    else:
        _check_kind(kernel, "rms_norm")
        _check_weight(weight, x)
        heads = weight.shape[0] if weight.dim() == 2 else 1
    rows = _matrix(kernel, x if heads == 1 else x.flatten(-2), dim)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    _go(
        kernel, rows.shape[0], heads * dim, rows.data_ptr(), rows.stride(0), y.data_ptr(), dim,
        0 if weight is None else weight.data_ptr(), dim, heads, _bits(1 / dim), _bits(eps), 0, 0, 0,
    )  # fmt: skip
    return y


def add_rms_norm(
    kernel: Kernel, x: torch.Tensor, added: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x + added, rounded, and its norm: [tokens, dim] each. The kernel is `add_rms_norm`."""
    dim = x.shape[-1]
    _check_kind(kernel, "add_rms_norm")
    _check_weight(weight, x)
    if weight.dim() != 1 or x.dim() != 2 or added.shape != x.shape:
        raise ValueError(f"x {tuple(x.shape)} and {tuple(added.shape)} do not fit")
    x, added = _matrix(kernel, x, dim), _matrix(kernel, added, dim)
    total, y = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
    _go(
        kernel, x.shape[0], 2 * dim, x.data_ptr(), x.stride(0), y.data_ptr(), dim,
        weight.data_ptr(), dim, 1, _bits(1 / dim), _bits(eps), added.data_ptr(), added.stride(0), total.data_ptr(),
    )  # fmt: skip
    return total, y


def join(
    kernel: Kernel, x: torch.Tensor, added: torch.Tensor, weight: torch.Tensor, eps: float,
    scalar: torch.Tensor | None = None, next_weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:  # fmt: skip
    """(x + norm(added) * weight) * scalar, rounded after every operation, and the norm of that if `next_weight` is given.

    x and added are [tokens, dim], scalar is [1]. The kernel is `join_norm` with a next weight, else `join`.
    """
    dim = x.shape[-1]
    _check_kind(kernel, "join" if next_weight is None else "join_norm")
    for one in (weight,) if next_weight is None else (weight, next_weight):
        _check_weight(one, x)
    scalar = _one() if scalar is None else scalar
    if weight.dim() != 1 or x.dim() != 2 or added.shape != x.shape or scalar.dtype != torch.bfloat16:
        raise ValueError(f"x {tuple(x.shape)} and {tuple(added.shape)} do not fit")
    x, added = _matrix(kernel, x, dim), _matrix(kernel, added, dim)
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    y = None if next_weight is None else torch.empty_like(total)
    _go(
        kernel, x.shape[0], 3 * dim, added.data_ptr(), added.stride(0), 0 if y is None else y.data_ptr(), dim,
        weight.data_ptr(), dim, 1, _bits(1 / dim), _bits(eps), x.data_ptr(), x.stride(0), total.data_ptr(),
        scalar.data_ptr(), 0 if next_weight is None else next_weight.data_ptr(),
    )  # fmt: skip
    return (total,) if y is None else (total, y)


@functools.cache
def _one() -> torch.Tensor:
    """The scalar of joins without one."""
    return torch.ones(1, dtype=torch.bfloat16)


def rope_(kernel: Kernel, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate x [tokens, heads, head_dim] in place; cos and signed sin [tokens, 1, dim] as layers.rotary makes them.

    Channels from dim on stay as they are.
    """
    tokens, heads, head_dim = x.shape
    _check_kind(kernel, "rope")
    dim = cos.shape[-1]
    if x.dtype != torch.bfloat16 or (x.stride(1), x.stride(2)) != (head_dim, 1) or dim > head_dim or dim % (2 * kernel.step):
        raise ValueError(f"x {tuple(x.shape)} {x.dtype} with strides {x.stride()} is not what {dim} channels can rotate in")
    for angle in (cos, sin):
        if angle.shape != (tokens, 1, dim) or angle.dtype != torch.bfloat16 or not angle.is_contiguous():
            raise ValueError(f"angles {tuple(angle.shape)} {angle.dtype} do not fit {tokens} tokens")
    _go(
        kernel, tokens, heads * dim, x.data_ptr(), x.stride(0), 0, dim // 2,
        cos.data_ptr(), sin.data_ptr(), heads, head_dim,
    )  # fmt: skip
    return x


def _go(kernel: Kernel, rows: int, width: int, *fields: int) -> None:
    """Here if the work is little, else on as many threads as torch uses."""
    if rows * width <= INLINE:
        if rows:
            context = array("q", (0, rows, rows, *fields))
            kernel.call(context.buffer_info()[0])
            cpu_pool.note(kernel.address, context, 1)
        return
    threads = torch.get_num_threads()
    # Several chunks for each thread, so that one held up elsewhere gets fewer.
    context = array("q", (0, rows, -(-rows // (8 * threads)), *fields))
    kernel.run(kernel.address, context.buffer_info()[0], threads, 0)
    cpu_pool.note(kernel.address, context, threads)


def _matrix(kernel: Kernel, x: torch.Tensor, width: int) -> torch.Tensor:
    """x as rows, copied only if a row is not in one piece. The kernel trusts its pointers."""
    if x.dtype != torch.bfloat16 or width < kernel.step:
        raise ValueError(f"x {tuple(x.shape)} {x.dtype} is not bfloat16 rows of at least {kernel.step}")
    if x.dim() != 2:
        x = x.reshape(-1, x.shape[-1])
    return x if x.stride(1) == 1 else x.contiguous()


def _check_weight(weight: torch.Tensor, x: torch.Tensor) -> None:
    if weight.dtype != torch.bfloat16 or weight.shape != x.shape[-weight.dim() :] or not weight.is_contiguous():
        raise ValueError(f"weight {tuple(weight.shape)} {weight.dtype} does not fit x {tuple(x.shape)}")


def _check_kind(kernel: Kernel, *kinds: str) -> None:
    if kernel.kind not in kinds:
        raise ValueError(f"a kernel of kind {kernel.kind} is none of {', '.join(kinds)}")


@functools.cache
def _bits(value: float) -> int:
    """A float32 as the integer that stands in a field."""
    return int.from_bytes(struct.pack("<f", value), "little")
