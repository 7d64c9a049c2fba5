"""The paged cache on x86 CPUs in bfloat16: new keys and values into it, and attention of rows with a single query out of it.

Pages are read where they lie. What is read and written follows from tensors alone (page tables, slots, positions, lengths), so
that a call can be recorded and made again for other rows. The code comes from `cpu_paged_code`.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tokenwell.engine.attention.spec import AttentionSpec, LayerCache
from tokenwell.engine.kernels import cpu_pool
from tokenwell.engine.kernels.cpu_attention import MAX_DIM, NO_SINK

INLINE = 1 << 18  # bfloat16 of keys and values up to which one thread is faster than waking the others
_MOST_GROUP = 64  # query heads to a key head
_UNBOUNDED = 1 << 40  # a window that hides nothing


@dataclass(frozen=True)
class Kernels:
    """Compiled code for one head size and number of query heads to a key head."""

    code: Any  # cpu_paged_code.Code
    store: Callable[[int], None]  # on this thread
    attend: Callable[[int], None]
    head_dim: int
    group: int


def reason_not(spec: AttentionSpec, page_tokens: int, device: torch.device) -> str | None:
    """Why a layer's cache cannot be served on this machine; None if it can."""
    reason = cpu_pool.reason_not(spec.dtype, device)
    if reason is not None:
        return reason
    isa = cpu_pool.host()
    if spec.softcap is not None or spec.folded or spec.kv_dtype not in (None, spec.dtype):
        return "it wants keys and values in the cache as they are computed with, and scores without a cap"
    if spec.head_dim % (2 * isa.lanes) or not 0 < spec.head_dim <= MAX_DIM:
        return f"a head of {spec.head_dim} is not a multiple of {2 * isa.lanes} up to {MAX_DIM}"
    if spec.heads // spec.kv_heads > _MOST_GROUP:
        return f"{spec.heads // spec.kv_heads} query heads share a key head, more than {_MOST_GROUP}"
    return f"a page of {page_tokens} tokens is no multiple of {isa.lanes}" if page_tokens % isa.lanes else None


def prepare(head_dim: int, group: int) -> Kernels:
    """Code for layers that `reason_not` has nothing against. The first call for a shape compiles, in about 0.1 s."""
    with _compiling:
        return _compiled(head_dim, group)


_compiling = threading.Lock()


@functools.cache
def _compiled(head_dim: int, group: int) -> Kernels:
    return kernels_for(cpu_pool.host(), head_dim, group)


def kernels_for(isa: Any, head_dim: int, group: int) -> Kernels:
    """Code for one instruction set (a cpu_ir.Isa), which need not be the widest that the CPU has."""
    from tokenwell.engine.kernels import cpu_paged_code

    code = cpu_paged_code.compile_kernels(isa, head_dim, group)
    store, attend = (ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address) for address in (code.store, code.attend))
    return Kernels(code, store, attend, head_dim, group)


@dataclass(frozen=True)
class Pages:
    """Where rows keep their tokens: of one layer's cache and one KV group's tables."""

    cache: LayerCache
    table: torch.Tensor  # [slots, pages] int32
    page_tokens: int
    slots: torch.Tensor  # [rows] int32

    def fields(self) -> tuple[int, ...]:
        """What cpu_paged_code.PLACES names, behind the counter. Raises ValueError for tensors that the code cannot read."""
        k, v, table = self.cache.k, self.cache.v, self.table
        if k.dtype != torch.bfloat16 or k.shape != v.shape or k.stride() != v.stride() or k.stride()[2:] != (k.shape[3], 1):
            raise ValueError(f"a cache {tuple(k.shape)} {k.dtype} with strides {k.stride()} cannot be read")
        if not table.dtype == self.slots.dtype == torch.int32 or table.stride(1) != 1 or not self.slots.is_contiguous():
            raise ValueError("tables and slots must be int32, slots in one piece")
        return (
            table.data_ptr(), table.stride(0), self.slots.data_ptr(), self.page_tokens, k.data_ptr(), v.data_ptr(),
            k.stride(0), k.stride(1),
        )  # fmt: skip


def store(kernels: Kernels, pages: Pages, k: torch.Tensor, v: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> None:
    """Keys and values [tokens, kv heads, head_dim] to where `rows` [tokens] int32 and `positions` [tokens] int64 say."""
    tokens, width = k.shape[0], k.shape[1] * k.shape[2]
    if v.shape != k.shape or k.shape[1:] != pages.cache.k.shape[2:] or not k.dtype == v.dtype == torch.bfloat16:
        raise ValueError(f"k {tuple(k.shape)} and v {tuple(v.shape)} do not fit a cache {tuple(pages.cache.k.shape)}")
    good = rows.dtype == torch.int32 and positions.dtype == torch.int64 and rows.is_contiguous() and positions.is_contiguous()
    if rows.shape != (tokens,) or positions.shape != (tokens,) or not good:
        raise ValueError(f"rows {tuple(rows.shape)} and positions {tuple(positions.shape)} do not fit {tokens} tokens")
    if not tokens:
        return
    k, v = _rows(k), _rows(v)
    context = array("q", (
        0, *pages.fields(), tokens, tokens, rows.data_ptr(), positions.data_ptr(), k.data_ptr(), k.stride(0), v.data_ptr(),
        v.stride(0), width,
    ))  # fmt: skip
    kernels.store(context.buffer_info()[0])
    cpu_pool.note(kernels.code.store, context, 1)


def attend(
    kernels: Kernels, pages: Pages, q: torch.Tensor, lengths: torch.Tensor, longest: int, scale: float,
    window: int | None, sinks: torch.Tensor | None, out: torch.Tensor,
) -> None:  # fmt: skip
    """Attention of one query a row, q [rows, heads, head_dim], over each row's first `lengths` [rows] int32 keys, into `out`.

    `out` is like q and in one piece; a window leaves only the last keys. No row is longer than `longest`. A sink [heads] is one
    more logit of a head, which only enlarges the denominator.
    """
    count, heads, dim = q.shape
    kv_heads = pages.cache.k.shape[2]
    if dim != kernels.head_dim or pages.cache.k.shape[3] != dim or heads != kernels.group * kv_heads or q.dtype != torch.bfloat16:
        raise ValueError(f"q {tuple(q.shape)} {q.dtype} does not fit a cache {tuple(pages.cache.k.shape)}")
    if lengths.dtype != torch.int32 or not lengths.is_contiguous() or min(len(lengths), len(pages.slots)) < count:
        raise ValueError("lengths and slots must be int32, one for each row")
    if pages.page_tokens % kernels.code.tile:
        raise ValueError(f"a page of {pages.page_tokens} tokens is no multiple of {kernels.code.tile}")
    if out.shape != q.shape or out.dtype != q.dtype or not out.is_contiguous():
        raise ValueError(f"out {tuple(out.shape)} is not like q {tuple(q.shape)}")
    if not count:
        return
    q = _rows(q)
    start = no_sinks(heads) if sinks is None else sinks.float().mul(math.log2(math.e)).clamp_(min=NO_SINK)
    bits = struct.unpack("i", struct.pack("f", scale * math.log2(math.e)))[0]
    context = array("q", (
        0, *pages.fields(), count, kv_heads, lengths.data_ptr(), window or _UNBOUNDED, q.data_ptr(), q.stride(0),
        out.data_ptr(), start.data_ptr(), bits,
    ))  # fmt: skip
    seen = min(longest, window or longest)
    threads = 1 if 2 * count * kv_heads * seen * dim <= INLINE else min(torch.get_num_threads(), count * kv_heads)
    if threads == 1:
        kernels.attend(context.buffer_info()[0])
    else:
        run = cpu_pool.thread_pool()
        assert run is not None
        run(kernels.code.attend, context.buffer_info()[0], threads, 0)
    cpu_pool.note(kernels.code.attend, context, threads)


def _rows(x: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, head_dim] with the heads of each token next to each other; tokens may be further apart."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


@functools.cache
def no_sinks(heads: int) -> torch.Tensor:
    """The start of heads without a sink."""
    return torch.full((heads,), NO_SINK)
