"""Few-row bfloat16 linear maps on x86 CPUs at close to memory bandwidth.

Decoding multiplies a few rows by every weight of the model, so it should run as fast as the weights can be read.
torch.nn.functional.linear reaches a third to a half of that. The kernels of `cpu_linear_code` read the weight as it is,
row-major: nothing is packed or copied.
"""

from __future__ import annotations

import functools
import threading
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import cpu_pool

TILE_BYTES = 1 << 20  # most weight bytes that one thread takes at a time
_WIDENED = 1 << 22  # elements of a weight that are widened at a time
_LEAST_ROWS = 4  # cpu_linear_code.MAX_GROUP: the kernels take so many weight rows at a time


@dataclass(frozen=True)
class Prepared:
    """A weight that the kernels can use, as it is."""

    weight: torch.Tensor  # [out, in] bfloat16, contiguous
    kernels: Kernels


@dataclass(frozen=True)
class Kernels:
    """Compiled kernels, and the pool that runs them."""

    entries: dict[int, tuple[int, int]]  # rows of x in a block: (address, weight rows in a group)
    max_block: int
    max_rows: int
    widens: bool  # whether many rows are multiplied faster in float32: the CPU has no products of bfloat16
    run: Callable[..., None]  # GOMP_parallel
    code: object  # owns the machine code


def reason_not(weight: torch.Tensor) -> str | None:
    """Why the kernels cannot serve `weight` [out, in] on this machine; None if they can."""
    if (reason := cpu_pool.reason_not(weight.dtype, weight.device)) is not None:
        return reason
    if weight.dim() != 2 or not weight.is_contiguous():
        return "the weight is not a contiguous matrix"
    if weight.shape[0] < _LEAST_ROWS or weight.shape[1] < 2 * cpu_pool.host().lanes:
        return f"a weight of {tuple(weight.shape)} is smaller than one step of the kernel"
    return None


def prepare(weight: torch.Tensor) -> Prepared:
    """Make `weight` [out, in], which `reason_not` has nothing against, ready for `linear`.

    The weight is shared, not copied. The first call compiles the kernels, in about 0.2 s.
    """
    return Prepared(weight, _kernels())


def linear(x: torch.Tensor, prepared: Prepared, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [tokens, in] times the transposed weight, plus bias [out]: [tokens, out], bfloat16, float32 inside.

    Any number of Python threads may call this at once; the GIL is released meanwhile. Raises ValueError for operands that
    do not fit the weight.
    """
    weight, kernels = prepared.weight, prepared.kernels
    tokens = x.shape[0]
    if not 0 < tokens <= kernels.max_rows:
        return _many(x, weight, bias) if kernels.widens else functional.linear(x, weight, bias)
    out, depth = weight.shape
    if bias is None:
        bias = _zeros(out)
    # The kernel trusts its pointers.
    if x.shape != (tokens, depth) or bias.shape != (out,):
        raise ValueError(f"x {tuple(x.shape)} or the bias does not fit {tuple(weight.shape)}")
    if not x.dtype == bias.dtype == torch.bfloat16:
        raise ValueError(f"x and the bias must be bfloat16, not {x.dtype} and {bias.dtype}")
    x, bias = x.contiguous(), bias.contiguous()
    y = torch.empty(tokens, out, dtype=torch.bfloat16)
    # Blocks of at most max_block rows of x, all of one size.
    blocks = -(-tokens // kernels.max_block)
    entry, group = kernels.entries[-(-tokens // blocks)]
    groups = -(-out // group)
    # As many equal tiles for each thread: all finish together when nothing else runs, and tiles are handed out one by one,
    # so that a thread held up elsewhere gets fewer.
    threads = torch.get_num_threads()
    limit = TILE_BYTES if blocks == 1 else TILE_BYTES // 2  # read again: keep it in the L2
    tiles = threads * -(-2 * out * depth // (threads * limit))
    context = array("q", (
        0, x.data_ptr(), weight.data_ptr(), y.data_ptr(), bias.data_ptr(),
        tokens, out, depth, blocks, groups, -(-groups // tiles),
    ))  # fmt: skip
    kernels.run(entry, context.buffer_info()[0], threads, 0)
    cpu_pool.note(entry, context, threads)
    return y


@functools.cache
def _zeros(count: int) -> torch.Tensor:
    """The bias of maps without one."""
    return torch.zeros(count, dtype=torch.bfloat16)


def _many(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product in float32, so many rows of the weight at a time that their widened copy stays small."""
    wide, y = x.float(), torch.empty(x.shape[0], weight.shape[0], dtype=torch.bfloat16)
    step = max(1, _WIDENED // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        y[:, rows] = functional.linear(wide, weight[rows].float(), None if bias is None else bias[rows].float())
    return y


_compiling = threading.Lock()


def _kernels() -> Kernels:
    """The kernels for this CPU, compiled once."""
    with _compiling:
        return _compile()


@functools.cache
def _compile() -> Kernels:
    return kernels_for(cpu_pool.host())


def kernels_for(isa: Any) -> Kernels:
    """Kernels for one instruction set (a cpu_ir.Isa), which need not be the widest that the CPU has."""
    from tokenwell.engine.kernels import cpu_linear_code

    compiled, run = cpu_linear_code.compile_kernels(isa), cpu_pool.thread_pool()
    assert run is not None
    return Kernels(compiled.entries, isa.max_block, isa.max_rows, not isa.dot_bf16, run, compiled)
