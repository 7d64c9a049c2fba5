"""Machine code for the paged cache in bfloat16: storing keys and values, and attention of one query a row.

`store` copies the keys and values of tokens to where the page tables say. `attend` reads pages in place: a tile of as many keys
as a vector has lanes never leaves a page, and each of the query heads that share a key head takes the tile with an online
softmax. Scores, probabilities and sums are float32. Knows no torch: `cpu_paged` calls what is made here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from tokenwell.engine.kernels.cpu_ir import F32, I32, I64, PTR, Emitter, Isa, compile_module

# What the functions get: a pointer to these 64-bit fields, in this order. Strides count elements.
PLACES: dict[str, ir.Type] = {
    "next": I64, "table": PTR, "table_stride": I64, "slots": PTR, "page_tokens": I64, "k": PTR, "v": PTR, "page_stride": I64,
    "token_stride": I64,
}  # fmt: skip
STORE = PLACES | {
    "tokens": I64, "chunk": I64, "rows": PTR, "positions": PTR, "new_k": PTR, "k_stride": I64, "new_v": PTR, "v_stride": I64,
    "width": I64,
}  # fmt: skip
ATTEND = PLACES | {
    "rows": I64, "kv_heads": I64, "lengths": PTR, "window": I64, "q": PTR, "q_stride": I64, "out": PTR, "start": PTR,
    "scale": F32,
}  # fmt: skip


@dataclass(frozen=True)
class Code:
    """Compiled functions."""

    store: int  # addresses
    attend: int
    tile: int  # keys; a page holds a multiple of it
    engine: object  # owns the machine code


def compile_kernels(isa: Isa, head_dim: int, group: int) -> Code:
    """Generate and compile for `group` query heads of `head_dim`, a multiple of 2 * lanes, to a key head."""
    module = ir.Module()
    _Store(module, isa)
    _Attend(module, isa, head_dim, group)
    engine = compile_module(module, isa)
    store, attend = (engine.get_function_address(name) for name in ("store", "attend"))
    return Code(store, attend, isa.lanes, engine)


class _Paged(Emitter):
    """What both functions know of pages."""

    c: dict[str, ir.Value]  # the context's fields

    def page(self, slot_of: ir.Value, position: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where the token at `position` of a row lies in k and v, in elements; `slot_of` points to the row's slot."""
        b, c = self.b, self.c
        slot = b.sext(b.load(slot_of, typ=I32), I64)
        entry = b.add(b.mul(slot, c["table_stride"]), b.udiv(position, c["page_tokens"]))
        page = b.sext(b.load(self.at(c["table"], entry, I32), typ=I32), I64)
        offset = b.mul(b.urem(position, c["page_tokens"]), c["token_stride"])
        place = b.add(b.mul(page, c["page_stride"]), offset)
        return self.at(c["k"], place), self.at(c["v"], place)


class _Store(_Paged):
    def __init__(self, module: ir.Module, isa: Isa) -> None:
        super().__init__(module, isa, "store")
        b = self.b
        self.c = c = self.fields(STORE)
        with self.work_items(c["tokens"], c["chunk"]) as (first, last), self.loop(first, last, 1) as token:
            row = b.sext(b.load(self.at(c["rows"], token, I32), typ=I32), I64)
            position = b.load(self.at(c["positions"], token, I64), typ=I64)
            places = self.page(self.at(c["slots"], row, I32), position)
            sources = [self.at(c[f"new_{name}"], b.mul(token, c[f"{name}_stride"])) for name in "kv"]
            with self.loop(I64(0), c["width"], self.step) as at:
                for source, place in zip(sources, places, strict=True):
                    b.store(b.load(self.at(source, at), typ=self.halves, align=2), self.at(place, at), align=2)


class _Attend(_Paged):
    """An item is one key head of one row."""

    def __init__(self, module: ir.Module, isa: Isa, head_dim: int, group: int) -> None:
        super().__init__(module, isa, "attend")
        b, self.dim, self.group = self.b, head_dim, group
        self.c = c = self.fields(ATTEND)
        self.sums = [b.alloca(self.floats) for _ in range(self.lanes)]
        self.chances = self._scratch(self.lanes)
        self.most = self._scratch(group)  # largest score so far, in the logarithm to base 2
        self.total = self._scratch(group * self.lanes)  # sum of probabilities, one for each lane
        self.mixed = self._scratch(group * head_dim)  # sum of values: of every step the even ones, then the odd ones
        with self.work_items(b.mul(c["rows"], c["kv_heads"]), I64(1)) as (item, _):
            self._item(b.udiv(item, c["kv_heads"]), b.urem(item, c["kv_heads"]))

    def _scratch(self, count: int) -> ir.Value:
        """Room for so many float32 on the stack."""
        place = self.b.alloca(ir.ArrayType(F32, count))
        return self.b.inttoptr(self.b.ptrtoint(place, I64), PTR)  # a pointer to nothing in particular

    def _item(self, row: ir.Value, head: ir.Value) -> None:
        b, c = self.b, self.c
        length = b.sext(b.load(self.at(c["lengths"], row, I32), typ=I32), I64)
        first = self.max(b.sub(length, c["window"]), I64(0))
        query = b.mul(head, I64(self.group * self.dim))
        self._begin(b.mul(head, I64(self.group)))
        with self.loop(b.and_(first, I64(-self.lanes)), length, self.lanes) as key:
            places = self.page(self.at(c["slots"], row, I32), key)
            keys, values = (self.at(place, b.mul(head, I64(self.dim))) for place in places)
            lane = ir.Constant(self.ints, list(range(self.lanes)))
            low, high = (self.splat(b.trunc(b.sub(edge, key), I32), self.ints) for edge in (first, length))
            seen = b.and_(b.icmp_signed(">=", lane, low), b.icmp_signed("<", lane, high))
            with self.loop(I64(0), I64(self.group), 1) as j:
                q = self.at(c["q"], b.add(b.mul(row, c["q_stride"]), b.add(query, b.mul(j, I64(self.dim)))))
                self._mix(j, values, self._chances(j, self._scores(q, keys), seen))
        heads = b.mul(c["kv_heads"], I64(self.group))
        self._finish(self.at(c["out"], b.add(b.mul(b.mul(row, heads), I64(self.dim)), query)))

    def _begin(self, which: ir.Value) -> None:
        """As if there had been one key, the sink, with a value of 0. `which` is the first query head."""
        b, zero = self.b, ir.Constant(self.floats, None)
        one = ir.Constant(self.floats, [1.0] + [0.0] * (self.lanes - 1))
        with self.loop(I64(0), I64(self.group), 1) as j:
            b.store(b.load(self.at(self.c["start"], b.add(which, j), F32), typ=F32), self.at(self.most, j, F32))
            self.store(one, self.at(self.total, b.mul(j, I64(self.lanes)), F32))
        with self.loop(I64(0), I64(self.group * self.dim), self.lanes) as at:
            self.store(zero, self.at(self.mixed, at, F32))

    def _scores(self, q: ir.Value, keys: ir.Value) -> ir.Value:
        """The products of one query with a tile of keys, one a lane."""
        b = self.b
        for total in self.sums:
            b.store(ir.Constant(self.floats, None), total)
        with self.loop(I64(0), I64(self.dim), self.step) as at:
            x = self.operands(b.load(self.at(q, at), typ=self.halves, align=2))
            for i, total in enumerate(self.sums):
                key = self.at(keys, b.add(b.mul(self.c["token_stride"], I64(i)), at))
                product = self.dot(b.load(total, typ=self.floats), self.operands(b.load(key, typ=self.halves, align=2)), x)
                b.store(product, total)
        (scores,) = self.totals([b.load(total, typ=self.floats) for total in self.sums])
        return b.fmul(scores, self.splat(self.c["scale"], self.floats))

    def _chances(self, j: ir.Value, scores: ir.Value, seen: ir.Value) -> ir.Value:
        """Leave the tile's probabilities in `chances`; what earlier sums are multiplied by."""
        b = self.b
        scores = b.select(seen, scores, ir.Constant(self.floats, [float("-inf")] * self.lanes))
        place = self.at(self.most, j, F32)
        before = self.broadcast(place)
        (largest,) = self.totals([scores], self.float_max)
        most = self.float_max(before, largest)
        b.store(b.extract_element(most, I32(0)), place)
        shrink, chances = self.exp2(b.fsub(before, most)), self.exp2(b.fsub(scores, most))
        total = self.at(self.total, b.mul(j, I64(self.lanes)), F32)
        self.store(self.fma(self.load(total), shrink, chances), total)
        self.store(chances, self.chances)
        return shrink

    def _mix(self, j: ir.Value, values: ir.Value, shrink: ir.Value) -> None:
        """Add the tile's values, as likely as they are."""
        b = self.b
        with self.loop(I64(0), I64(self.dim), self.step) as at:
            mixed = self.at(self.mixed, b.add(b.mul(j, I64(self.dim)), at), F32)
            places = [mixed, self.at(mixed, self.lanes, F32)]
            sums = [b.fmul(self.load(place), shrink) for place in places]
            for i in range(self.lanes):
                chance = self.broadcast(self.at(self.chances, i, F32))
                value = b.load(self.at(values, b.add(b.mul(self.c["token_stride"], I64(i)), at)), typ=self.halves, align=2)
                sums = [self.fma(part, chance, total) for part, total in zip(self.widen(value), sums, strict=True)]
            for total, place in zip(sums, places, strict=True):
                self.store(total, place)

    def _finish(self, out: ir.Value) -> None:
        b = self.b
        with self.loop(I64(0), I64(self.group), 1) as j:
            (total,) = self.totals([self.load(self.at(self.total, b.mul(j, I64(self.lanes)), F32))])
            share = b.fdiv(self.float_splat(1.0), total)
            with self.loop(I64(0), I64(self.dim), self.step) as at:
                place = b.add(b.mul(j, I64(self.dim)), at)
                mixed = self.at(self.mixed, place, F32)
                halves = [b.fmul(self.load(self.at(mixed, half, F32)), share) for half in (0, self.lanes)]
                b.store(self.round_pairs(*halves), self.at(out, place), align=2)
