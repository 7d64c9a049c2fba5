"""Machine code for what a decoder does between its linear maps, in bfloat16 with float32 inside and one rounding.

Each function takes rows from a counter until there are none, so it can run on one thread or on several. Edges need no code of
their own: the last step of a row starts early enough to be whole. What it repeats is written twice, the same both times, and
not counted twice in a sum. Knows no torch: `cpu_elementwise` calls what is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from tokenwell.engine.kernels.cpu_ir import F32, I16, I64, PTR, Emitter, Isa, compile_module

# What the functions get: a pointer to these 64-bit fields, in this order. Strides count elements.
ROWS: dict[str, ir.Type] = {"next": I64, "rows": I64, "chunk": I64, "x": PTR, "x_stride": I64, "y": PTR, "width": I64}
GATED = ROWS
NORM = ROWS | {
    "weight": PTR, "weight_stride": I64, "heads": I64, "share": F32, "eps": F32, "added": PTR, "added_stride": I64, "sum": PTR,
}  # fmt: skip
ROPE = ROWS | {"cos": PTR, "sin": PTR, "heads": I64, "head_dim": I64}

LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Code:
    """A compiled function."""

    address: int
    engine: object  # owns the machine code


def compile_kernel(isa: Isa, kind: str) -> Code:
    """Generate and compile one of KINDS."""
    module = ir.Module()
    _Rows(module, isa, kind).emit(KINDS[kind])
    engine = compile_module(module, isa)
    return Code(engine.get_function_address(kind), engine)


class _Rows(Emitter):
    def emit(self, body: tuple[dict[str, ir.Type], Callable[..., None]]) -> None:
        kinds, one = body
        self.total = self.b.alloca(self.floats)  # of a sum
        self.c = self.fields(kinds)
        with self.work_items(self.c["rows"], self.c["chunk"]) as (first, last), self.loop(first, last, 1) as row:
            one(self, row)

    @contextmanager
    def steps(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Starts of whole steps that cover the width, and how far the steps before have come."""
        width = self.c["width"]
        with self.loop(I64(0), width, self.step) as k:
            yield self.min(k, self.b.sub(width, I64(self.step))), k

    def values(self, pointer: ir.Value) -> tuple[ir.Value, ir.Value]:
        return self.widen(self.b.load(pointer, typ=self.halves, align=2))

    def write(self, values: list[Any], pointer: ir.Value) -> None:
        self.b.store(self.round_pairs(*values), pointer, align=2)


def _silu(k: _Rows, x: ir.Value) -> ir.Value:
    """-x, in the logarithm to base 2."""
    return k.b.fmul(x, k.float_splat(-LOG2_E))


def _gelu_tanh(k: _Rows, x: ir.Value) -> ir.Value:
    """(1 + tanh u) / 2 is the sigmoid of 2 u; -2 u here, u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    outer = -2 * LOG2_E * 0.7978845608028654
    inner = k.fma(k.b.fmul(x, x), k.float_splat(outer * 0.044715), k.float_splat(outer))
    return k.b.fmul(x, inner)


def _gated(exponent: Callable[[_Rows, ir.Value], ir.Value]) -> Callable[[_Rows, ir.Value], None]:
    """gate * sigmoid * value; the sigmoid is 1 / (1 + 2 ** exponent(gate))."""

    def emit(k: _Rows, row: ir.Value) -> None:
        b, c = k.b, k.c
        gates = k.at(c["x"], b.mul(row, c["x_stride"]))
        values = k.at(gates, c["width"])
        to = k.at(c["y"], b.mul(row, c["width"]))
        with k.steps() as (at, _):
            mixed = []
            for gate, value in zip(k.values(k.at(gates, at)), k.values(k.at(values, at)), strict=True):
                power = k.float_min(k.float_splat(126.0), exponent(k, gate))
                below = b.fadd(k.exp2(power), k.float_splat(1.0))
                mixed.append(b.fmul(b.fdiv(gate, below), value))
            k.write(mixed, k.at(to, at))

    return emit


def _norm(weighted: bool, added: bool) -> Callable[[_Rows, ir.Value], None]:
    """x / sqrt(mean of squares + eps) * weight, for each head of a row; x + added, rounded, in place of x."""

    def emit(k: _Rows, row: ir.Value) -> None:
        b, c = k.b, k.c
        with k.loop(I64(0), c["heads"], 1) as head:
            within = b.mul(head, c["width"])
            source = k.at(c["x"], b.add(b.mul(row, c["x_stride"]), within))
            place = b.add(b.mul(row, b.mul(c["heads"], c["width"])), within)
            total = k.total
            b.store(ir.Constant(k.floats, None), total)
            with k.steps() as (at, done):
                raw = b.load(k.at(source, at), typ=k.halves, align=2)
                if added:
                    other = k.values(k.at(k.at(c["added"], b.add(b.mul(row, c["added_stride"]), within)), at))
                    raw = k.round_pairs(*(b.fadd(x, y) for x, y in zip(k.widen(raw), other, strict=True)))
                    b.store(raw, k.at(k.at(c["sum"], place), at), align=2)
                lane = ir.Constant(k.halves, list(range(k.step)))
                fresh = b.icmp_unsigned(">=", lane, k.splat(b.trunc(b.sub(done, at), I16), k.halves))
                even, odd = k.widen(b.select(fresh, raw, ir.Constant(k.halves, None)))
                b.store(k.fma(odd, odd, k.fma(even, even, b.load(total, typ=k.floats))), total)
            (summed,) = k.totals([b.load(total, typ=k.floats)])
            mean = k.fma(summed, k.splat(c["share"], k.floats), k.splat(c["eps"], k.floats))
            root = k.call(f"llvm.sqrt.v{k.lanes}f32", k.floats, mean)
            factor = b.fdiv(k.float_splat(1.0), root)
            if added:
                source = k.at(c["sum"], place)
            weight = k.at(c["weight"], b.mul(head, c["weight_stride"]))
            with k.steps() as (at, _):
                scaled = [b.fmul(x, factor) for x in k.values(k.at(source, at))]
                if weighted:
                    scaled = [b.fmul(x, w) for x, w in zip(scaled, k.values(k.at(weight, at)), strict=True)]
                k.write(scaled, k.at(k.at(c["y"], place), at))

    return emit


def _rope(k: _Rows, row: ir.Value) -> None:
    """Turn the pairs (i, i + width), width of each, of every head where it lies. sin has its sign in it."""
    b, c = k.b, k.c
    angles = b.mul(row, b.mul(c["width"], I64(2)))
    with k.steps() as (at, _):
        places = [at, b.add(at, c["width"])]
        cos = [k.values(k.at(k.at(c["cos"], angles), place)) for place in places]
        sin = [k.values(k.at(k.at(c["sin"], angles), place)) for place in places]
        with k.loop(I64(0), c["heads"], 1) as head:
            x = k.at(c["x"], b.add(b.mul(row, c["x_stride"]), b.mul(head, c["head_dim"])))
            pair = [k.values(k.at(x, place)) for place in places]
            for i in range(2):
                turned = [
                    k.fma(own, cosine, b.fmul(other, sine))
                    for own, other, cosine, sine in zip(pair[i], pair[1 - i], cos[i], sin[i], strict=True)
                ]
                k.write(turned, k.at(x, places[i]))


KINDS: dict[str, tuple[dict[str, ir.Type], Callable[..., None]]] = {
    "silu": (GATED, _gated(_silu)),
    "gelu_tanh": (GATED, _gated(_gelu_tanh)),
    "rms_norm": (NORM, _norm(True, False)),
    "rms_norm_plain": (NORM, _norm(False, False)),
    "add_rms_norm": (NORM, _norm(True, True)),
    "rope": (ROPE, _rope),
}
