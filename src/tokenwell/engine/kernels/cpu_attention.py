"""Attention of many queries of one sequence on x86 CPUs, in bfloat16 with a float32 softmax.

torch's fused attention computes the causal square in full and spends more time on the softmax than on the products. This one
skips keys that nobody sees, reads a key once for all the heads that share it, and takes a window and sinks. The code comes
from `cpu_attention_code` and runs on torch's OpenMP threads.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
import threading
from dataclasses import dataclass
from typing import Any

import torch

from tokenwell.engine.kernels import cpu_pool

MAX_DIM = 512
NO_SINK = -1e30  # a logit so small that it adds nothing


@dataclass(frozen=True)
class Kernels:
    """Compiled code for one head size."""

    code: Any  # cpu_attention_code.Code
    head_dim: int


def reason_not(head_dim: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why this attention cannot be used on this machine; None if it can."""
    reason = cpu_pool.reason_not(dtype, device)
    if reason is not None:
        return reason
    isa = cpu_pool.host()
    if head_dim % (2 * isa.lanes) or not 0 < head_dim <= MAX_DIM:
        return f"a head of {head_dim} is not a multiple of {2 * isa.lanes} up to {MAX_DIM}"
    return None


def prepare(head_dim: int) -> Kernels:
    """Code for heads that `reason_not` has nothing against. The first call for a size compiles, in about 0.1 s."""
    with _compiling:
        return _compiled(head_dim)


_compiling = threading.Lock()


@functools.cache
def _compiled(head_dim: int) -> Kernels:
    return kernels_for(cpu_pool.host(), head_dim)


def kernels_for(isa: Any, head_dim: int) -> Kernels:
    """Code for one instruction set (a cpu_ir.Isa), which need not be the widest that the CPU has."""
    from tokenwell.engine.kernels import cpu_attention_code

    return Kernels(cpu_attention_code.compile_kernels(isa, head_dim), head_dim)


def attention(
    kernels: Kernels,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    position: int,
    window: int | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal attention: q [queries, heads, head_dim], k and v [keys, kv heads, head_dim], to the shape of q.

    Query i stands at key `position + i` and sees the keys up to there, the last `window` of them if given. A sink [heads] is
    one more logit of a head, which only enlarges the denominator. The GIL is released meanwhile, and any number of Python
    threads may call this at once. Raises ValueError for operands that do not fit.
    """
    code, dim = kernels.code, kernels.head_dim
    queries, heads = q.shape[0], q.shape[1]
    keys, kv_heads = k.shape[0], k.shape[1]
    # The code trusts its pointers.
    if q.shape[2:] != (dim,) or k.shape[2:] != (dim,) or v.shape != k.shape or kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not fit heads of {dim}")
    if not q.dtype == k.dtype == v.dtype == torch.bfloat16:
        raise ValueError(f"q, k and v must be bfloat16, not {q.dtype}, {k.dtype} and {v.dtype}")
    if position < 0 or position + queries > keys or (window is not None and window < 1):
        raise ValueError(f"{queries} queries from {position} on with window {window} do not fit {keys} keys")
    out = torch.empty(q.shape, dtype=torch.bfloat16)
    if queries == 0 or heads == 0:
        return out
    keys = position + queries  # nobody sees more
    q, k, v = (_rows(x, dim) for x in (q, k, v))
    start = _no_sinks(heads) if sinks is None else sinks.float().mul(math.log2(math.e)).clamp_(min=NO_SINK)
    if start.shape != (heads,):
        raise ValueError(f"sinks {tuple(start.shape)} do not fit {heads} heads")
    run = cpu_pool.thread_pool()
    assert run is not None
    threads = torch.get_num_threads()
    tiles = -(-keys // code.tile)
    packed_k, packed_v = torch.empty(2, kv_heads * tiles * code.tile * dim, dtype=torch.bfloat16)
    scratch = torch.empty(threads * code.scratch + 64, dtype=torch.uint8)
    context = (ctypes.c_int64 * 10)(
        0, k.data_ptr(), v.data_ptr(), packed_k.data_ptr(), packed_v.data_ptr(), keys, kv_heads, tiles, k.stride(0), v.stride(0)
    )
    run(code.pack, context, threads, 0)
    group = heads // kv_heads
    blocks = -(-queries * group // code.block_rows)
    bits = struct.unpack("i", struct.pack("f", scale * math.log2(math.e)))[0]
    context = (ctypes.c_int64 * 17)(
        0, q.data_ptr(), out.data_ptr(), packed_k.data_ptr(), packed_v.data_ptr(), start.data_ptr(),
        -(-scratch.data_ptr() // 64) * 64, 0, queries, kv_heads, group, tiles, position, window or keys, blocks,
        q.stride(0), bits,
    )  # fmt: skip
    run(code.attend, context, threads, 0)
    return out


def _rows(x: torch.Tensor, dim: int) -> torch.Tensor:
    """x with the heads of each token next to each other; tokens may be further apart."""
    return x if x.stride()[1:] == (dim, 1) else x.contiguous()


@functools.cache
def _no_sinks(heads: int) -> torch.Tensor:
    return torch.full((heads,), NO_SINK)
