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

from tokenwell.engine.kernels.cpu_ir import F32, I16, I32, I64, PTR, Emitter, Isa, compile_module

# What the functions get: a pointer to these 64-bit fields, in this order. Strides count elements.
ROWS: dict[str, ir.Type] = {"next": I64, "rows": I64, "chunk": I64, "x": PTR, "x_stride": I64, "y": PTR, "width": I64}
GATED = ROWS | {"values": PTR, "values_stride": I64}
NORM = ROWS | {
    "weight": PTR, "weight_stride": I64, "heads": I64, "share": F32, "eps": F32, "added": PTR, "added_stride": I64, "sum": PTR,
}  # fmt: skip
JOIN = NORM | {"scalar": PTR, "next_weight": PTR}
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

    def clear_total(self) -> None:
        self.b.store(ir.Constant(self.floats, None), self.total)

    def add_squares(self, raw: ir.Value, at: ir.Value, done: ir.Value) -> None:
        """Add to the total the squares of a step at `at`, without what steps up to `done` have counted."""
        b = self.b
        lane = ir.Constant(self.halves, list(range(self.step)))
        fresh = b.icmp_unsigned(">=", lane, self.splat(b.trunc(b.sub(done, at), I16), self.halves))
        even, odd = self.widen(b.select(fresh, raw, ir.Constant(self.halves, None)))
        b.store(self.fma(odd, odd, self.fma(even, even, b.load(self.total, typ=self.floats))), self.total)

    def factor(self) -> ir.Value:
        """1 / sqrt(mean + eps) of the squares in the total, in every lane."""
        b, c = self.b, self.c
        (summed,) = self.totals([b.load(self.total, typ=self.floats)])
        mean = self.fma(summed, self.splat(c["share"], self.floats), self.splat(c["eps"], self.floats))
        root = self.call(f"llvm.sqrt.v{self.lanes}f32", self.floats, mean)
        return b.fdiv(self.float_splat(1.0), root)


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
        values = k.at(c["values"], b.mul(row, c["values_stride"]))
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
            k.clear_total()
            with k.steps() as (at, done):
                raw = b.load(k.at(source, at), typ=k.halves, align=2)
                if added:
                    other = k.values(k.at(k.at(c["added"], b.add(b.mul(row, c["added_stride"]), within)), at))
                    raw = k.round_pairs(*(b.fadd(x, y) for x, y in zip(k.widen(raw), other, strict=True)))
                    b.store(raw, k.at(k.at(c["sum"], place), at), align=2)
                k.add_squares(raw, at, done)
            factor = k.factor()
            if added:
                source = k.at(c["sum"], place)
            weight = k.at(c["weight"], b.mul(head, c["weight_stride"]))
            with k.steps() as (at, _):
                scaled = [b.fmul(x, factor) for x in k.values(k.at(source, at))]
                if weighted:
                    scaled = [b.fmul(x, w) for x, w in zip(scaled, k.values(k.at(weight, at)), strict=True)]
                k.write(scaled, k.at(k.at(c["y"], place), at))

    return emit


def _join(normed: bool) -> Callable[[_Rows, ir.Value], None]:
    """sum = (added + norm(x)) * scalar, rounded after every operation as separate ones would; with `normed`, y is its norm."""

    def emit(k: _Rows, row: ir.Value) -> None:
        b, c = k.b, k.c
        source, other = k.at(c["x"], b.mul(row, c["x_stride"])), k.at(c["added"], b.mul(row, c["added_stride"]))
        total = k.at(c["sum"], b.mul(row, c["width"]))
        scalar = k.splat(b.bitcast(b.shl(b.zext(b.load(c["scalar"], typ=I16), I32), I32(16)), F32), k.floats)
        k.clear_total()
        with k.steps() as (at, done):
            k.add_squares(b.load(k.at(source, at), typ=k.halves, align=2), at, done)
        factor = k.factor()
        k.clear_total()
        with k.steps() as (at, done):
            weights = k.values(k.at(c["weight"], at))
            scaled = [b.fmul(b.fmul(x, factor), w) for x, w in zip(k.values(k.at(source, at)), weights, strict=True)]
            added = zip(k.widen(k.round_pairs(*scaled)), k.values(k.at(other, at)), strict=True)
            sums = k.widen(k.round_pairs(*(b.fadd(x, y) for x, y in added)))
            raw = k.round_pairs(*(b.fmul(x, scalar) for x in sums))
            b.store(raw, k.at(total, at), align=2)
            if normed:
                k.add_squares(raw, at, done)
        if normed:
            factor = k.factor()
            with k.steps() as (at, _):
                weights = k.values(k.at(c["next_weight"], at))
                scaled = [b.fmul(b.fmul(x, factor), w) for x, w in zip(k.values(k.at(total, at)), weights, strict=True)]
                k.write(scaled, k.at(k.at(c["y"], b.mul(row, c["width"])), at))

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
    "join": (JOIN, _join(False)),
    "join_norm": (JOIN, _join(True)),
    "rope": (ROPE, _rope),
}
