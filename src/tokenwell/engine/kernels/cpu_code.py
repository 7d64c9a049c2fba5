"""Machine code for few-row bfloat16 products on x86-64, generated with llvmlite when the first weight needs it.

One function for each number of rows of x, `void linear<m>(context *)`. It takes m rows of x and r rows of the weight at a
time, keeps their m * r sums in registers, and asks for memory a little ahead of where it reads. Products and sums are
float32; a result is rounded once, to bfloat16. Knows no torch: `cpu_linear` calls what is made here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

PREFETCH_BYTES = 8192  # how far ahead of its reads a kernel asks for the weight
MAX_GROUP = 4  # most weight rows that a kernel takes at a time

# What a kernel gets: a pointer to these 64-bit integers, in this order.
FIELDS = ["next_tile", "x", "weight", "y", "bias", "tokens", "n_rows", "depth", "blocks", "groups", "tile"]


@dataclass(frozen=True)
class Isa:
    """What the kernels are compiled for."""

    cpu: str
    features: str
    lanes: int  # float32 values in one vector register
    registers: int  # vector registers
    dot_bf16: bool  # has vdpbf16ps, which multiplies and adds pairs of bfloat16
    max_block: int  # most rows of x in one kernel
    max_rows: int  # most rows of x for which the kernels are faster than torch


@functools.cache
def host_isa() -> Isa | None:
    """The widest instructions of this CPU that there is a kernel for."""
    if not llvm.get_process_triple().startswith("x86_64"):
        return None
    has = llvm.get_host_cpu_features()
    cpu, features = llvm.get_host_cpu_name(), has.flatten()
    if has.get("avx512f") and has.get("avx512bw"):
        dot = bool(has.get("avx512bf16"))
        return Isa(cpu, features, 16, 32, dot, max_block=8, max_rows=32 if dot else 16)
    if has.get("avx2") and has.get("fma"):
        return Isa(cpu, features, 8, 16, False, max_block=4, max_rows=16)
    return None


@dataclass(frozen=True)
class Code:
    """Compiled kernels."""

    entries: dict[int, tuple[int, int]]  # rows of x in a block: (address, weight rows in a group)
    engine: object  # owns the machine code


def compile_kernels(isa: Isa) -> Code:
    """Generate and compile one kernel for each number of rows of x up to a block's most."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = ir.Module()
    groups = {m: _Kernel(module, isa, m).r for m in range(1, isa.max_block + 1)}
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=isa.cpu, features=isa.features, opt=3, jit=True)
    compiled = llvm.parse_assembly(str(module))
    passes = llvm.create_new_function_pass_manager()
    passes.add_sroa_pass()  # variables to registers
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
    for function in compiled.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    engine = llvm.create_mcjit_compiler(compiled, machine)
    engine.finalize_object()
    entries = {m: (engine.get_function_address(f"linear{m}"), r) for m, r in groups.items()}
    return Code(entries, engine)


_I16, _I32, _I64, _F32, _PTR = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite.ir does not have."""

    def _to_string(self) -> str:
        return "bfloat"


_BF16 = _BFloat()


class _Kernel:
    """Generates ``void linear{m}(context *)``: y for blocks of ``m`` rows of x.

    Edges need no code of their own. The last block of x and the last group of weight rows
    start early enough to be whole (some results are written twice, the same both times).
    """

    def __init__(self, module: ir.Module, isa: Isa, m: int) -> None:
        self.isa, self.m = isa, m
        # As many rows of the weight as leave room in the registers for their operands.
        parts = 1 if isa.dot_bf16 else 2
        self.r = min(MAX_GROUP, max(1, (isa.registers - 2 - parts) // (m + parts)))
        self.floats = ir.VectorType(_F32, isa.lanes)
        self.ints = ir.VectorType(_I32, isa.lanes)
        self.halves = ir.VectorType(_I16, 2 * isa.lanes)
        self.pairs = ir.VectorType(_BF16, 2 * isa.lanes)
        kind = ir.FunctionType(ir.VoidType(), [_PTR])
        self.b = ir.IRBuilder(ir.Function(module, kind, f"linear{m}").append_basic_block())
        self._emit()

    def _emit(self) -> None:
        b, function = self.b, self.b.function
        context = function.args[0]
        c = {}
        for i, name in enumerate(FIELDS[1:], 1):
            kind = _PTR if name in ("x", "weight", "y", "bias") else _I64
            c[name] = b.load(b.gep(context, [_I64(i)], source_etype=_I64), typ=kind)
        self.sums = [b.alloca(self.floats) for _ in range(self.m * self.r)]
        grab, work, end = (function.append_basic_block(name) for name in ("grab", "work", "end"))
        b.branch(grab)
        b.position_at_end(grab)
        first = b.mul(b.atomic_rmw("add", context, _I64(1), "monotonic"), c["tile"])
        b.cbranch(b.icmp_unsigned("<", first, c["groups"]), work, end)
        b.position_at_end(work)
        last = self._min(b.add(first, c["tile"]), c["groups"])
        with self._loop(_I64(0), c["blocks"], 1) as block:
            row = self._min(b.mul(block, _I64(self.m)), b.sub(c["tokens"], _I64(self.m)))
            with self._loop(first, last, 1) as group:
                n = self._min(b.mul(group, _I64(self.r)), b.sub(c["n_rows"], _I64(self.r)))
                self._group(c, row, n)
        b.branch(grab)
        b.position_at_end(end)
        b.ret_void()

    def _group(self, c: dict[str, Any], row: ir.Value, n: ir.Value) -> None:
        """y[row : row + m, n : n + r]."""
        b, depth, step = self.b, c["depth"], 2 * self.isa.lanes
        for j in range(self.r):  # A sum starts as the bias in its first lane.
            raw = b.load(self._at(c["bias"], b.add(n, _I64(j))), typ=_I16)
            value = b.bitcast(b.shl(b.zext(raw, _I32), _I32(16)), _F32)
            start = b.insert_element(ir.Constant(self.floats, None), value, _I32(0))
            for i in range(self.m):
                b.store(start, self.sums[i * self.r + j])
        xs = [self._at(c["x"], b.mul(b.add(row, _I64(i)), depth)) for i in range(self.m)]
        ws = [self._at(c["weight"], b.mul(b.add(n, _I64(j)), depth)) for j in range(self.r)]
        whole = b.and_(depth, _I64(-step))
        with self._loop(_I64(0), whole, step) as k:
            # The rows of a group lie one after another: ask for them in that order.
            ahead = self._at(ws[0], b.add(b.mul(k, _I64(self.r)), _I64(PREFETCH_BYTES // 2)))
            for line in range(0, self.r * step, 32):
                self._call("llvm.prefetch.p0", ir.VoidType(), self._at(ahead, _I64(line)), _I32(0), _I32(2), _I32(1))
            self._step([self._at(p, k) for p in ws], [self._at(p, k) for p in xs])
        with b.if_then(b.icmp_unsigned("!=", whole, depth)):
            # The last whole step again, less what the loop has already counted.
            k = b.sub(depth, _I64(step))
            seen = b.trunc(b.sub(whole, k), _I16)
            lane = ir.Constant(self.halves, list(range(step)))
            fresh = b.icmp_unsigned(">=", lane, self._splat(seen, self.halves))
            self._step([self._at(p, k) for p in ws], [self._at(p, k) for p in xs], fresh)
        sums = [b.load(s, typ=self.floats) for s in self.sums]
        for v, total in enumerate(self._totals(sums)):
            rounded = self._round(total)
            for s in range(v * self.isa.lanes, min(len(sums), (v + 1) * self.isa.lanes)):
                i, j = divmod(s, self.r)
                at = b.add(b.mul(b.add(row, _I64(i)), c["n_rows"]), b.add(n, _I64(j)))
                value = b.extract_element(rounded, _I32(s % self.isa.lanes))
                b.store(value, self._at(c["y"], at), align=2)

    def _step(self, ws: list[Any], xs: list[Any], keep: ir.Value | None = None) -> None:
        """Add the products of one vector of every row, or of its elements in ``keep``."""
        b = self.b
        w_parts = [self._parts(p, keep) for p in ws]
        for i, p in enumerate(xs):
            x_parts = self._parts(p, keep)
            for j in range(self.r):
                total = b.load(self.sums[i * self.r + j], typ=self.floats)
                for w, x in zip(w_parts[j], x_parts, strict=True):
                    if self.isa.dot_bf16:
                        dot = "llvm.x86.avx512bf16.dpbf16ps.512"
                        total = self._call(dot, self.floats, total, w, x)
                    else:
                        fma = f"llvm.fma.v{self.isa.lanes}f32"
                        total = self._call(fma, self.floats, w, x, total)
                b.store(total, self.sums[i * self.r + j])

    def _parts(self, pointer: ir.Value, keep: ir.Value | None) -> list[Any]:
        """Load 2 * lanes bfloat16: as one vector, or widened, the even and the odd ones."""
        b = self.b
        raw = b.load(pointer, typ=self.halves, align=2)
        if keep is not None:
            raw = b.select(keep, raw, ir.Constant(self.halves, None))
        if self.isa.dot_bf16:
            return [b.bitcast(raw, self.pairs)]
        both = b.bitcast(raw, self.ints)  # bfloat16 is the upper half of a float32
        even, odd = b.shl(both, self._ints(16)), b.and_(both, self._ints(0xFFFF0000))
        return [b.bitcast(even, self.floats), b.bitcast(odd, self.floats)]

    def _totals(self, vectors: list[Any]) -> list[Any]:
        """The sum over the lanes of each vector, in the lanes of as few vectors as hold them.

        Folds two vectors into one at a time, half of each: fewer instructions than summing
        every vector by itself.
        """
        b, lanes, width = self.b, self.isa.lanes, self.isa.lanes
        while width > 1:
            low = [i for i in range(lanes) if i % width < width // 2]
            folded = []
            for a in range(0, len(vectors), 2):
                pair = vectors[a], vectors[min(a + 1, len(vectors) - 1)]
                index = ir.VectorType(_I32, lanes)
                halves = [
                    b.shuffle_vector(*pair, ir.Constant(index, [i + at for i in both]))
                    for both in [low + [i + lanes for i in low]]
                    for at in (0, width // 2)
                ]
                folded.append(b.fadd(*halves))
            vectors, width = folded, width // 2
        return vectors

    def _round(self, value: ir.Value) -> ir.Value:
        """float32 to the bits of bfloat16, to nearest even; a NaN stays one."""
        b = self.b
        bits = b.bitcast(value, self.ints)
        odd = b.and_(b.lshr(bits, self._ints(16)), self._ints(1))
        near = b.lshr(b.add(b.add(bits, self._ints(0x7FFF)), odd), self._ints(16))
        near = b.select(b.fcmp_unordered("uno", value, value), self._ints(0x7FC0), near)
        return b.trunc(near, ir.VectorType(_I16, self.isa.lanes))

    def _ints(self, value: int) -> ir.Constant:
        return ir.Constant(self.ints, [value] * self.isa.lanes)

    def _splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        b = self.b
        one = b.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, kind.count), None)
        return b.shuffle_vector(one, one, zeros)

    def _at(self, base: ir.Value, index: ir.Value) -> ir.Value:
        """Pointer to element ``index`` of bfloat16 values."""
        return self.b.gep(base, [index], source_etype=_I16)

    def _min(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed("<", left, right), left, right)

    def _call(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        kind = ir.FunctionType(result, [a.type for a in args])
        module = self.b.module
        return self.b.call(module.globals.get(name) or ir.Function(module, kind, name), args)

    @contextlib.contextmanager
    def _loop(self, start: ir.Value, stop: ir.Value, step: int) -> Iterator[ir.Value]:
        """for (i = start; i < stop; i += step), run at least once."""
        b = self.b
        before, body = b.block, b.append_basic_block()
        b.branch(body)
        b.position_at_end(body)
        i = b.phi(_I64)
        i.add_incoming(start, before)
        yield i
        following = b.add(i, _I64(step))
        i.add_incoming(following, b.block)
        after = b.append_basic_block()
        b.cbranch(b.icmp_signed("<", following, stop), body, after)
        b.position_at_end(after)
