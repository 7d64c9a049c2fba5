"""What the generators of x86-64 machine code share: the instruction set, compilation, and pieces of LLVM IR.

Knows no torch. The generators are the files of this folder whose names end in `_code`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from tokenwell.engine.kernels import cpu_kept

I16, I32, I64, F32, PTR = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()

# 2**f for |f| <= 1/2, relative error 3e-6 and exact at 0. The coefficients of f, f^2, f^3, f^4 (minimax, up to rounding, of
# the relative error).
EXP2 = (0.6931241750717163, 0.24024099111557007, 0.055906426161527634, 0.009582852944731712)
EXP2_LEAST = -127.0  # 2 to this or less is exactly 0


@dataclass(frozen=True)
class Isa:
    """What the kernels are compiled for."""

    cpu: str
    features: str
    lanes: int  # float32 values in one vector register
    registers: int  # vector registers
    dot_bf16: bool  # has vdpbf16ps, which multiplies and adds pairs of bfloat16
    max_block: int  # most rows of x in one few-row linear kernel
    max_rows: int  # most rows of x for which the few-row linear kernels are faster than torch


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


def compile_module(module: ir.Module, isa: Isa) -> Any:
    """Machine code of every function of `module`: an engine, which owns it and has get_function_address(name)."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=isa.cpu, features=isa.features, opt=3, jit=True)
    text = str(module)
    compiled = llvm.parse_assembly(text)
    name = cpu_kept.name_of(text, isa.cpu, isa.features, str(llvm.llvm_version_info))
    known = cpu_kept.find(name)
    if known is None:
        passes = llvm.create_new_function_pass_manager()
        passes.add_sroa_pass()  # variables to registers
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options())
        for function in compiled.functions:
            if not function.is_declaration:
                passes.run(function, builder)
    engine = llvm.create_mcjit_compiler(compiled, machine)
    engine.set_object_cache(lambda _, code: cpu_kept.keep(name, code), lambda _: known)
    engine.finalize_object()
    return engine


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite.ir does not have."""

    def _to_string(self) -> str:
        return "bfloat"


_BF16 = _BFloat()


class Emitter:
    """Writes one function `void name(context *)`; the context is an array of 64-bit fields."""

    def __init__(self, module: ir.Module, isa: Isa, name: str) -> None:
        self.isa, self.lanes, self.step = isa, isa.lanes, 2 * isa.lanes
        self.floats = ir.VectorType(F32, isa.lanes)
        self.ints = ir.VectorType(I32, isa.lanes)
        self.halves = ir.VectorType(I16, 2 * isa.lanes)
        self.pairs = ir.VectorType(_BF16, 2 * isa.lanes)
        kind = ir.FunctionType(ir.VoidType(), [PTR])
        self.b = ir.IRBuilder(ir.Function(module, kind, name).append_basic_block())
        self.context = self.b.function.args[0]

    def fields(self, kinds: dict[str, ir.Type]) -> dict[str, Any]:
        """The context's fields by name, loaded."""
        b = self.b
        return {n: b.load(self.at(self.context, I64(i), I64), typ=kind) for i, (n, kind) in enumerate(kinds.items())}

    def at(self, base: ir.Value, index: ir.Value | int, kind: ir.Type = I16) -> ir.Value:
        """Pointer to element `index` of an array, of bfloat16 unless `kind` says otherwise."""
        return self.b.gep(base, [I64(index) if isinstance(index, int) else index], source_etype=kind)

    def min(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed("<", left, right), left, right)

    def max(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.b.select(self.b.icmp_signed(">", left, right), left, right)

    def call(self, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
        kind = ir.FunctionType(result, [a.type for a in args])
        module = self.b.module
        return self.b.call(module.globals.get(name) or ir.Function(module, kind, name), args)

    @contextlib.contextmanager
    def loop(self, start: ir.Value, stop: ir.Value, step: int) -> Iterator[ir.Value]:
        """for (i = start; i < stop; i += step), run at least once."""
        b = self.b
        before, body = b.block, b.append_basic_block()
        b.branch(body)
        b.position_at_end(body)
        i = b.phi(I64)
        i.add_incoming(start, before)
        yield i
        following = b.add(i, I64(step))
        i.add_incoming(following, b.block)
        after = b.append_basic_block()
        b.cbranch(b.icmp_signed("<", following, stop), body, after)
        b.position_at_end(after)

    @contextlib.contextmanager
    def work_items(self, count: ir.Value, size: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Runs [first, last) of `count` items, `size` at a time, handed out by the counter in the context's first field.

        The function ends here.
        """
        b = self.b
        grab, work, end = (b.append_basic_block(name) for name in ("grab", "work", "end"))
        b.branch(grab)
        b.position_at_end(grab)
        first = b.mul(b.atomic_rmw("add", self.context, I64(1), "monotonic"), size)
        b.cbranch(b.icmp_signed("<", first, count), work, end)
        b.position_at_end(work)
        yield first, self.min(b.add(first, size), count)
        b.branch(grab)
        b.position_at_end(end)
        b.ret_void()

    # Vectors.

    def int_splat(self, value: int) -> ir.Constant:
        return ir.Constant(self.ints, [value] * self.lanes)

    def float_splat(self, value: float) -> ir.Constant:
        # llvmlite writes a float constant exactly only if it is one
        return ir.Constant(self.floats, [_as_float32(value)] * self.lanes)

    def splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        b = self.b
        one = b.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        zeros = ir.Constant(ir.VectorType(I32, kind.count), None)
        return b.shuffle_vector(one, one, zeros)

    def load(self, pointer: ir.Value) -> ir.Value:
        """A vector of float32."""
        return self.b.load(pointer, typ=self.floats, align=4)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        self.b.store(value, pointer, align=4)

    def broadcast(self, pointer: ir.Value) -> ir.Value:
        """The float32 at `pointer` in every lane."""
        return self.splat(self.b.load(pointer, typ=F32), self.floats)

    def float_max(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """vmaxps; a NaN on the right stays."""
        return self.b.select(self.b.fcmp_ordered(">", left, right), left, right)

    def float_min(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """vminps; a NaN on the right stays."""
        return self.b.select(self.b.fcmp_ordered("<", left, right), left, right)

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        return self.call(f"llvm.fma.v{self.lanes}f32", self.floats, x, y, z)

    def widen(self, raw: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The even and the odd ones of 2 * lanes bfloat16, as float32: bfloat16 is the upper half."""
        b = self.b
        both = b.bitcast(raw, self.ints)
        even, odd = b.shl(both, self.int_splat(16)), b.and_(both, self.int_splat(0xFFFF0000))
        return b.bitcast(even, self.floats), b.bitcast(odd, self.floats)

    def operands(self, raw: ir.Value) -> list[Any]:
        """2 * lanes bfloat16 as operands of `dot`: one vector, or widened, the even and the odd ones."""
        return [self.b.bitcast(raw, self.pairs)] if self.isa.dot_bf16 else list(self.widen(raw))

    def dot(self, total: ir.Value, left: list[Any], right: list[Any]) -> ir.Value:
        """total + the products of pairs, each lane its own."""
        for x, y in zip(left, right, strict=True):
            if self.isa.dot_bf16:
                total = self.call("llvm.x86.avx512bf16.dpbf16ps.512", self.floats, total, x, y)
            else:
                total = self.fma(x, y, total)
        return total

    def _near(self, value: ir.Value) -> ir.Value:
        """float32 to the bits of the nearest bfloat16, in the upper half above other bits; a NaN stays one."""
        b = self.b
        bits = b.bitcast(value, self.ints)
        odd = b.and_(b.lshr(bits, self.int_splat(16)), self.int_splat(1))
        near = b.add(b.add(bits, self.int_splat(0x7FFF)), odd)
        return b.select(b.fcmp_unordered("uno", value, value), self.int_splat(0x7FC00000), near)

    def round(self, value: ir.Value) -> ir.Value:
        """float32 to the bits of bfloat16, to nearest even."""
        return self.b.trunc(self.b.lshr(self._near(value), self.int_splat(16)), ir.VectorType(I16, self.lanes))

    def round_pairs(self, even: ir.Value, odd: ir.Value) -> ir.Value:
        """The opposite of `widen`."""
        b = self.b
        low = b.lshr(self._near(even), self.int_splat(16))
        return b.bitcast(b.or_(low, b.and_(self._near(odd), self.int_splat(0xFFFF0000))), self.halves)

    def round_joined(self, first: ir.Value, second: ir.Value) -> ir.Value:
        """Two vectors of float32 to the bits of bfloat16, one after the other."""
        b = self.b
        if self.isa.dot_bf16:
            return b.bitcast(self.call("llvm.x86.avx512bf16.cvtne2ps2bf16.512", self.pairs, second, first), self.halves)
        index = ir.Constant(ir.VectorType(I32, self.step), list(range(self.step)))
        return b.shuffle_vector(self.round(first), self.round(second), index)

    def exp2(self, x: ir.Value, least: float = EXP2_LEAST) -> ir.Value:
        """2**x for x < 128, relative error 3e-6; from 2**-127 on it is 0. A NaN stays one.

        The integer part goes to the exponent, the rest through a polynomial. Adding 1.5 * 2**23 rounds to an integer and
        leaves it in the lowest bits.
        """
        b, magic = self.b, self.float_splat(1.5 * 2**23)
        x = self.float_max(self.float_splat(least), x)
        shifted = b.fadd(x, magic)
        f = b.fsub(x, b.fsub(shifted, magic))
        result = self.float_splat(EXP2[-1])
        for coefficient in (*EXP2[-2::-1], 1.0):
            result = self.fma(result, f, self.float_splat(coefficient))
        exponent = b.shl(b.bitcast(shifted, self.ints), self.int_splat(23))
        return b.bitcast(b.add(b.bitcast(result, self.ints), exponent), self.floats)

    def totals(self, vectors: list[Any], combine: Callable[[Any, Any], Any] | None = None) -> list[Any]:
        """The sum (or another combination) over the lanes of each vector, in the lanes of as few vectors as hold them.

        Folds two vectors into one at a time, half of each: fewer instructions than summing
        every vector by itself.
        """
        b, lanes, width = self.b, self.lanes, self.lanes
        while width > 1:
            low = [i for i in range(lanes) if i % width < width // 2]
            both = low + [i + lanes for i in low]
            folded = []
            for a in range(0, len(vectors), 2):
                pair = vectors[a], vectors[min(a + 1, len(vectors) - 1)]
                index = ir.VectorType(I32, lanes)
                halves = [b.shuffle_vector(*pair, ir.Constant(index, [i + at for i in both])) for at in (0, width // 2)]
                folded.append((combine or b.fadd)(*halves))
            vectors, width = folded, width // 2
        return vectors

    def transpose(self, rows: list[Any]) -> list[Any]:
        """The columns of a square of 32-bit values, one row in each vector."""
        b, lanes, width = self.b, self.lanes, 1
        while width < lanes:
            # Swap the off-diagonal corners of every square of 2 * width.
            upper = [lanes + i - width if i & width else i for i in range(lanes)]
            lower = [lanes + i if i & width else i + width for i in range(lanes)]
            turned = list(rows)
            for i in range(lanes):
                if not i & width:
                    for to, index in ((i, upper), (i + width, lower)):
                        turned[to] = b.shuffle_vector(rows[i], rows[i + width], ir.Constant(ir.VectorType(I32, lanes), index))
            rows, width = turned, 2 * width
        return rows


def _as_float32(value: float) -> float:
    import struct

    exact: float = struct.unpack("f", struct.pack("f", value))[0]
    return exact
