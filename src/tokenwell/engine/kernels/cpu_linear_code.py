"""Machine code for few-row bfloat16 products on x86-64, generated with llvmlite when the first weight needs it.

One function for each number of rows of x, `void linear<m>(context *)`. It takes m rows of x and r rows of the weight at a
time, keeps their m * r sums in registers, and asks for memory a little ahead of where it reads. Products and sums are
float32; a result is rounded once, to bfloat16. Knows no torch: `cpu_linear` calls what is made here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from tokenwell.engine.kernels.cpu_ir import F32, I16, I32, I64, PTR, Emitter, Isa, compile_module, host_isa

__all__ = ["FIELDS", "MAX_GROUP", "Code", "Isa", "compile_kernels", "host_isa"]

PREFETCH_BYTES = 8192  # how far ahead of its reads a kernel asks for the weight
MAX_GROUP = 4  # most weight rows that a kernel takes at a time

# What a kernel gets: a pointer to these 64-bit integers, in this order.
FIELDS = ["next_tile", "x", "weight", "y", "bias", "tokens", "n_rows", "depth", "blocks", "groups", "tile"]


@dataclass(frozen=True)
class Code:
    """Compiled kernels."""

    entries: dict[int, tuple[int, int]]  # rows of x in a block: (address, weight rows in a group)
    engine: object  # owns the machine code


def compile_kernels(isa: Isa) -> Code:
    """Generate and compile one kernel for each number of rows of x up to a block's most."""
    module = ir.Module()
    groups = {m: _Kernel(module, isa, m).r for m in range(1, isa.max_block + 1)}
    engine = compile_module(module, isa)
    entries = {m: (engine.get_function_address(f"linear{m}"), r) for m, r in groups.items()}
    return Code(entries, engine)


class _Kernel(Emitter):
    """Generates ``void linear{m}(context *)``: y for blocks of ``m`` rows of x.

    Edges need no code of their own. The last block of x and the last group of weight rows
    start early enough to be whole (some results are written twice, the same both times).
    """

    def __init__(self, module: ir.Module, isa: Isa, m: int) -> None:
        super().__init__(module, isa, f"linear{m}")
        self.m = m
        # As many rows of the weight as leave room in the registers for their operands.
        parts = 1 if isa.dot_bf16 else 2
        self.r = min(MAX_GROUP, max(1, (isa.registers - 2 - parts) // (m + parts)))
        self._emit()

    def _emit(self) -> None:
        b = self.b
        c = self.fields({name: PTR if name in ("x", "weight", "y", "bias") else I64 for name in FIELDS})
        self.sums = [b.alloca(self.floats) for _ in range(self.m * self.r)]
        with self.work_items(c["groups"], c["tile"]) as (first, last), self.loop(I64(0), c["blocks"], 1) as block:
            row = self.min(b.mul(block, I64(self.m)), b.sub(c["tokens"], I64(self.m)))
            with self.loop(first, last, 1) as group:
                n = self.min(b.mul(group, I64(self.r)), b.sub(c["n_rows"], I64(self.r)))
                self._group(c, row, n)

    def _group(self, c: dict[str, Any], row: ir.Value, n: ir.Value) -> None:
        """y[row : row + m, n : n + r]."""
        b, depth, step = self.b, c["depth"], 2 * self.isa.lanes
        for j in range(self.r):  # A sum starts as the bias in its first lane.
            raw = b.load(self.at(c["bias"], b.add(n, I64(j))), typ=I16)
            value = b.bitcast(b.shl(b.zext(raw, I32), I32(16)), F32)
            start = b.insert_element(ir.Constant(self.floats, None), value, I32(0))
            for i in range(self.m):
                b.store(start, self.sums[i * self.r + j])
        xs = [self.at(c["x"], b.mul(b.add(row, I64(i)), depth)) for i in range(self.m)]
        ws = [self.at(c["weight"], b.mul(b.add(n, I64(j)), depth)) for j in range(self.r)]
        whole = b.and_(depth, I64(-step))
        with self.loop(I64(0), whole, step) as k:
            # The rows of a group lie one after another: ask for them in that order.
            ahead = self.at(ws[0], b.add(b.mul(k, I64(self.r)), I64(PREFETCH_BYTES // 2)))
            for line in range(0, self.r * step, 32):
                self.call("llvm.prefetch.p0", ir.VoidType(), self.at(ahead, I64(line)), I32(0), I32(2), I32(1))
            self._step([self.at(p, k) for p in ws], [self.at(p, k) for p in xs])
        with b.if_then(b.icmp_unsigned("!=", whole, depth)):
            # The last whole step again, less what the loop has already counted.
            k = b.sub(depth, I64(step))
            seen = b.trunc(b.sub(whole, k), I16)
            lane = ir.Constant(self.halves, list(range(step)))
            fresh = b.icmp_unsigned(">=", lane, self.splat(seen, self.halves))
            self._step([self.at(p, k) for p in ws], [self.at(p, k) for p in xs], fresh)
        sums = [b.load(s, typ=self.floats) for s in self.sums]
        for v, total in enumerate(self.totals(sums)):
            rounded = self.round(total)
            for s in range(v * self.isa.lanes, min(len(sums), (v + 1) * self.isa.lanes)):
                i, j = divmod(s, self.r)
                at = b.add(b.mul(b.add(row, I64(i)), c["n_rows"]), b.add(n, I64(j)))
                value = b.extract_element(rounded, I32(s % self.isa.lanes))
                b.store(value, self.at(c["y"], at), align=2)

    def _step(self, ws: list[Any], xs: list[Any], keep: ir.Value | None = None) -> None:
        """Add the products of one vector of every row, or of its elements in ``keep``."""
        b = self.b
        w_parts = [self._parts(p, keep) for p in ws]
        for i, p in enumerate(xs):
            x_parts = self._parts(p, keep)
            for j in range(self.r):
                total = self.sums[i * self.r + j]
                b.store(self.dot(b.load(total, typ=self.floats), w_parts[j], x_parts), total)

    def _parts(self, pointer: ir.Value, keep: ir.Value | None) -> list[Any]:
        """Operands of `dot`: 2 * lanes bfloat16."""
        b = self.b
        raw = b.load(pointer, typ=self.halves, align=2)
        if keep is not None:
            raw = b.select(keep, raw, ir.Constant(self.halves, None))
        return self.operands(raw)
