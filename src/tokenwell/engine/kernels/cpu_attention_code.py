"""Machine code for attention of many queries of one sequence in bfloat16, for one head size.

Two functions. `pack` rearranges keys and values once, so that both products can read them as the right-hand side of a matrix
product: pairs of bfloat16 along the sum, a tile of 2 * lanes columns next to each other. `attend` is a flash attention with
an online softmax: sums, scores and softmax are float32, probabilities are rounded to bfloat16 for the second product.

A row is one query of one head. The rows of all heads that share a key head are worked on together, query by query, a strip
of `rows` of them in registers at a time. A block of strips goes through the keys in steps of KEYS, which stay in the cache
meanwhile; each strip skips the tiles of keys that none of its rows sees, so half of a causal square costs little more than
half. Knows no torch: `cpu_attention` calls what is made here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from tokenwell.engine.kernels.cpu_ir import F32, I32, I64, PTR, Emitter, Isa, compile_module

KEYS = 128  # keys in one step of the online softmax
BLOCK_ROWS = 96  # most rows in a block
PAD = 32  # bfloat16 between rows in scratch: equal offsets would fall into the same sets of the cache

# What the functions get: a pointer to these 64-bit fields, in this order.
PACK_FIELDS = {
    "next": I64, "k": PTR, "v": PTR, "packed_k": PTR, "packed_v": PTR, "keys": I64, "kv_heads": I64, "tiles": I64,
    "k_stride": I64, "v_stride": I64,
}  # fmt: skip
FIELDS = {
    "next": I64, "q": PTR, "out": PTR, "packed_k": PTR, "packed_v": PTR, "start": PTR, "scratch": PTR, "next_scratch": I64,
    "queries": I64, "kv_heads": I64, "group": I64, "tiles": I64, "position": I64, "window": I64, "blocks": I64,
    "q_stride": I64, "scale": F32,
}  # fmt: skip


@dataclass(frozen=True)
class Code:
    """Compiled functions for one head size."""

    pack: int  # addresses
    attend: int
    tile: int  # keys are packed in tiles of this many
    block_rows: int  # rows in a block
    scratch: int  # bytes for each thread
    engine: object  # owns the machine code


def compile_kernels(isa: Isa, head_dim: int) -> Code:
    """Generate and compile. `head_dim` is a multiple of 2 * lanes."""
    module = ir.Module()
    _Pack(module, isa, head_dim)
    attend = _Attend(module, isa, head_dim)
    engine = compile_module(module, isa)
    pack, run = (engine.get_function_address(name) for name in ("pack", "attend"))
    return Code(pack, run, 2 * isa.lanes, attend.block, attend.size, engine)


class _Pack(Emitter):
    """k, v [keys, kv heads, head_dim] to, for each key head,

    packed k [tiles][head_dim / 2][tile][2]        (sum over channels)
    packed v [head_dim / tile][tiles * tile / 2][tile][2]   (sum over keys)

    Past the last key, the last tile repeats it.
    """

    def __init__(self, module: ir.Module, isa: Isa, head_dim: int) -> None:
        super().__init__(module, isa, "pack")
        b, step, lanes = self.b, self.step, self.lanes
        c = self.fields(PACK_FIELDS)
        area = b.mul(c["tiles"], I64(step * head_dim))  # of one key head
        with self.work_items(b.mul(c["tiles"], c["kv_heads"]), I64(1)) as (item, _):
            head, tile = b.udiv(item, c["tiles"]), b.urem(item, c["tiles"])
            first = b.mul(tile, I64(step))
            last = b.sub(c["keys"], I64(1))
            rows = [self.min(b.add(first, I64(i)), last) for i in range(step)]
            source = self.at(c["k"], b.mul(head, I64(head_dim)))
            sources = [self.at(source, b.mul(row, c["k_stride"])) for row in rows]
            target = self.at(c["packed_k"], b.add(b.mul(head, area), b.mul(tile, I64(step * head_dim))))
            with self.loop(I64(0), I64(head_dim), step) as d:
                for half in range(2):
                    pairs = [b.load(self.at(p, d), typ=self.ints, align=2) for p in sources[half * lanes : (half + 1) * lanes]]
                    for i, column in enumerate(self.transpose(pairs)):
                        at = b.add(b.mul(d, I64(step)), I64(2 * i * step + half * step))
                        b.store(column, self.at(target, at), align=2)
            source = self.at(c["v"], b.mul(head, I64(head_dim)))
            sources = [self.at(source, b.mul(row, c["v_stride"])) for row in rows]
            target = self.at(c["packed_v"], b.add(b.mul(head, area), b.mul(first, I64(step))))
            width = b.mul(c["tiles"], I64(step * step))  # of one tile of channels
            with self.loop(I64(0), I64(head_dim // step), 1) as d:
                to, at = self.at(target, b.mul(d, width)), b.mul(d, I64(step))
                for i in range(0, step, 2):
                    pair = [b.load(self.at(p, at), typ=self.halves, align=2) for p in sources[i : i + 2]]
                    for half in range(2):
                        index = [lane + which * step for lane in range(half * lanes, (half + 1) * lanes) for which in range(2)]
                        mixed = b.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, step), index))
                        b.store(mixed, self.at(to, I64((i + half) * step)), align=2)


class _Attend(Emitter):
    """Blocks of rows, the last ones first: they see most keys."""

    def __init__(self, module: ir.Module, isa: Isa, head_dim: int) -> None:
        super().__init__(module, isa, "attend")
        self.dim = head_dim
        # Two vectors of columns; the rest of the registers is for their operands.
        parts = 1 if isa.dot_bf16 else 2
        self.m = min(12, isa.lanes, (isa.registers - 3 * parts) // 2)
        self.strips = BLOCK_ROWS // self.m
        self.block = self.strips * self.m
        self.q_stride, self.p_stride = head_dim + PAD, KEYS + PAD
        self.size = 0
        offsets = {
            "place": self._area(self.block * 8),  # i64: where the row is in q and out
            "upper": self._area(self.block * 4),  # i32: the last key that a row sees
            "lower": self._area(self.block * 4),  # i32: and the first
            "q": self._area(self.block * self.q_stride * 2),  # bfloat16
            "mixed": self._area(self.block * head_dim * 4),  # float32: sum of values
            "most": self._area(self.strips * isa.lanes * 4),  # float32: largest score so far
            "total": self._area(self.block * isa.lanes * 4),  # float32: sum of probabilities, one for each lane
            "scores": self._area(self.m * (KEYS + PAD // 2) * 4),  # float32
            "chances": self._area(self.m * self.p_stride * 2),  # bfloat16: probabilities
            "shrink": self._area(isa.lanes * 4),  # float32: what earlier sums are multiplied by
        }
        self.s_stride = KEYS + PAD // 2
        b = self.b
        self.sums = [b.alloca(self.floats) for _ in range(2 * self.m)]
        self.c = c = self.fields(FIELDS)
        slot = b.atomic_rmw("add", self.at(self.context, list(FIELDS).index("next_scratch"), I64), I64(1), "monotonic")
        scratch = self.at(c["scratch"], b.mul(slot, I64(self.size // 2)))
        self.s = {name: self.at(scratch, offset // 2) for name, offset in offsets.items()}
        self.area = b.mul(c["tiles"], I64(self.step * head_dim))
        with self.work_items(b.mul(c["blocks"], c["kv_heads"]), I64(1)) as (item, _):
            block = b.sub(b.sub(c["blocks"], I64(1)), b.udiv(item, c["kv_heads"]))
            self._block(b.mul(block, I64(self.block)), b.urem(item, c["kv_heads"]))

    def _area(self, size: int) -> int:
        """A place of `size` bytes in scratch."""
        offset = self.size
        self.size += -(-size // 64) * 64
        return offset

    def _block(self, first: ir.Value, head: ir.Value) -> None:
        """Rows from `first` on of one key head."""
        b, c, s = self.b, self.c, self.s
        self.k = self.at(c["packed_k"], b.mul(head, self.area))
        self.v = self.at(c["packed_v"], b.mul(head, self.area))
        count = self.min(b.sub(b.mul(c["queries"], c["group"]), first), I64(self.block))
        strips = b.udiv(b.add(count, I64(self.m - 1)), I64(self.m))
        self._begin(first, head, b.sub(count, I64(1)), b.mul(strips, I64(self.m)))
        begin = b.sext(b.load(s["lower"], typ=I32), I64)
        last = self.at(s["upper"], b.sub(count, I64(1)), I32)
        stop = b.add(b.sext(b.load(last, typ=I32), I64), I64(1))
        with self.loop(b.and_(begin, I64(-KEYS)), stop, KEYS) as key, self.loop(I64(0), strips, 1) as strip:
            self._strip(key, strip)
        with self.loop(I64(0), b.mul(strips, I64(self.m)), 1) as row:
            self._finish(row)

    def _begin(self, first: ir.Value, head: ir.Value, last: ir.Value, rows: ir.Value) -> None:
        """Copy queries and note which keys they see. Rows past the last repeat it."""
        b, c, s = self.b, self.c, self.s
        with self.loop(I64(0), rows, 1) as row:
            number = b.add(first, self.min(row, last))
            query = b.udiv(number, c["group"])
            which = b.add(b.mul(head, c["group"]), b.urem(number, c["group"]))
            heads = b.mul(c["kv_heads"], c["group"])
            place = b.mul(b.add(b.mul(query, heads), which), I64(self.dim))
            b.store(place, self.at(s["place"], row, I64))
            upper = b.add(query, c["position"])
            lower = self.max(b.add(b.sub(upper, c["window"]), I64(1)), I64(0))
            b.store(b.trunc(upper, I32), self.at(s["upper"], row, I32))
            b.store(b.trunc(lower, I32), self.at(s["lower"], row, I32))
            source = self.at(c["q"], b.add(b.mul(query, c["q_stride"]), b.mul(which, I64(self.dim))))
            to = self.at(s["q"], b.mul(row, I64(self.q_stride)))
            mixed = self.at(s["mixed"], b.mul(row, I64(self.dim)), F32)
            zero = ir.Constant(self.floats, None)
            with self.loop(I64(0), I64(self.dim), self.step) as d:
                b.store(b.load(self.at(source, d), typ=self.halves, align=2), self.at(to, d), align=2)
                for half in (0, self.lanes):
                    self.store(zero, self.at(mixed, b.add(d, I64(half)), F32))
            # As if there had been one key, the sink, with a value of 0.
            strip, lane = b.udiv(row, I64(self.m)), b.urem(row, I64(self.m))
            most = self.at(s["most"], b.add(b.mul(strip, I64(self.lanes)), lane), F32)
            b.store(b.load(self.at(c["start"], which, F32), typ=F32), most)
            one = ir.Constant(self.floats, [1.0] + [0.0] * (self.lanes - 1))
            self.store(one, self.at(s["total"], b.mul(row, I64(self.lanes)), F32))

    def _strip(self, key: ir.Value, strip: ir.Value) -> None:
        """The keys [key, key + KEYS) for one strip."""
        b, s = self.b, self.s
        row = b.mul(strip, I64(self.m))
        low = [b.sext(b.load(self.at(s["lower"], b.add(row, I64(i)), I32), typ=I32), I64) for i in (0, self.m - 1)]
        high = [b.sext(b.load(self.at(s["upper"], b.add(row, I64(i)), I32), typ=I32), I64) for i in (0, self.m - 1)]
        begin = self.max(key, b.and_(low[0], I64(-self.step)))
        stop = self.min(b.add(key, I64(KEYS)), b.add(b.or_(high[1], I64(self.step - 1)), I64(1)))
        with b.if_then(b.icmp_signed("<", begin, stop)):
            with self.loop(begin, stop, self.step) as n:
                self._scores(key, n, row)
                # Some row does not see all keys of the tile.
                hidden = b.or_(b.icmp_signed(">", b.add(n, I64(self.step - 1)), high[0]), b.icmp_signed("<", n, low[1]))
                with b.if_then(hidden):
                    self._hide(key, n, row)
            begin, stop = b.sub(begin, key), b.sub(stop, key)
            self._softmax(strip, row, begin, stop)
            with self.loop(I64(0), I64(self.dim // self.step), 1) as d:
                self._mix(key, begin, stop, row, d)

    def _scores(self, key: ir.Value, n: ir.Value, row: ir.Value) -> None:
        """Scores of one tile of keys, in the logarithm to base 2."""
        b, s = self.b, self.s
        for total in self.sums:
            b.store(ir.Constant(self.floats, None), total)
        self._product(
            self.at(s["q"], b.mul(row, I64(self.q_stride))), self.q_stride,
            self.at(self.k, b.mul(n, I64(self.dim))), I64(0), I64(self.dim // 2),
        )  # fmt: skip
        scale = self.splat(self.c["scale"], self.floats)
        to = self.at(s["scores"], b.sub(n, key), F32)
        for i in range(self.m):
            for j in range(2):
                score = b.fmul(b.load(self.sums[2 * i + j], typ=self.floats), scale)
                self.store(score, self.at(to, i * self.s_stride + j * self.lanes, F32))

    def _product(self, left: ir.Value, stride: int, right: ir.Value, start: ir.Value, stop: ir.Value) -> None:
        """Add left [m, pairs] times a packed tile [pairs] to the sums."""
        b = self.b
        with self.loop(start, stop, 1) as pair:
            tile = self.at(right, b.mul(pair, I64(2 * self.step)))
            columns = [self.operands(b.load(self.at(tile, j * self.step), typ=self.halves, align=2)) for j in range(2)]
            at = self.at(left, b.mul(pair, I64(2)))
            for i in range(self.m):
                value = self.splat(b.load(self.at(at, i * stride), typ=I32, align=2), self.ints)
                x = self.operands(b.bitcast(value, self.halves))
                for j in range(2):
                    total = self.sums[2 * i + j]
                    b.store(self.dot(b.load(total, typ=self.floats), x, columns[j]), total)

    def _hide(self, key: ir.Value, n: ir.Value, row: ir.Value) -> None:
        """Scores of keys that a row does not see become minus infinity."""
        b, s = self.b, self.s
        to = self.at(s["scores"], b.sub(n, key), F32)
        infinity = ir.Constant(self.floats, [float("-inf")] * self.lanes)
        with self.loop(I64(0), I64(self.m), 1) as i:
            at = b.add(row, i)
            limits = [b.sub(b.load(self.at(s[name], at, I32), typ=I32), b.trunc(n, I32)) for name in ("lower", "upper")]
            lower, upper = (self.splat(limit, self.ints) for limit in limits)
            for j in range(2):
                lane = ir.Constant(self.ints, [j * self.lanes + lane for lane in range(self.lanes)])
                seen = b.and_(b.icmp_signed(">=", lane, lower), b.icmp_signed("<=", lane, upper))
                score = self.at(to, b.add(b.mul(i, I64(self.s_stride)), I64(j * self.lanes)), F32)
                self.store(b.select(seen, self.load(score), infinity), score)

    def _softmax(self, strip: ir.Value, row: ir.Value, begin: ir.Value, stop: ir.Value) -> None:
        """Scores to probabilities, relative to the largest score so far."""
        b, s = self.b, self.s
        most_at = self.at(s["most"], b.mul(strip, I64(self.lanes)), F32)
        largest = self.sums[: self.m]
        for vector in largest:
            b.store(ir.Constant(self.floats, [float("-inf")] * self.lanes), vector)
        with self.loop(begin, stop, self.step) as n:
            for i, vector in enumerate(largest):
                for j in range(2):
                    score = self.load(self.at(s["scores"], b.add(n, I64(i * self.s_stride + j * self.lanes)), F32))
                    b.store(self.float_max(b.load(vector, typ=self.floats), score), vector)
        (most,) = self.totals([b.load(vector, typ=self.floats) for vector in largest], self.float_max)
        before = self.load(most_at)
        most = self.float_max(before, most)
        self.store(most, most_at)
        self.store(self.exp2(b.fsub(before, most)), s["shrink"])
        with self.loop(I64(0), I64(self.m), 1) as i:
            most = self.broadcast(self.at(most_at, i, F32))
            total_at = self.at(s["total"], b.mul(b.add(row, i), I64(self.lanes)), F32)
            start = b.fmul(self.load(total_at), self.broadcast(self.at(s["shrink"], i, F32)))
            totals = self.sums[-2:]  # free here
            b.store(start, totals[0])
            b.store(ir.Constant(self.floats, None), totals[1])
            with self.loop(begin, stop, self.step) as n:
                both = []
                for j in range(2):
                    score = self.at(s["scores"], b.add(b.add(n, I64(j * self.lanes)), b.mul(i, I64(self.s_stride))), F32)
                    both.append(self.exp2(b.fsub(self.load(score), most)))
                    b.store(b.fadd(b.load(totals[j], typ=self.floats), both[j]), totals[j])
                to = self.at(s["chances"], b.add(n, b.mul(i, I64(self.p_stride))))
                b.store(self.round_joined(*both), to, align=2)
            self.store(b.fadd(*(b.load(total, typ=self.floats) for total in totals)), total_at)

    def _mix(self, key: ir.Value, begin: ir.Value, stop: ir.Value, row: ir.Value, d: ir.Value) -> None:
        """Add the values of the keys [begin, stop) of this step, one tile of channels."""
        b, s = self.b, self.s
        place = b.add(b.mul(row, I64(self.dim)), b.mul(d, I64(self.step)))
        mixed = self.at(s["mixed"], place, F32)
        for i in range(self.m):
            shrink = self.broadcast(self.at(s["shrink"], i, F32))
            for j in range(2):
                before = self.load(self.at(mixed, i * self.dim + j * self.lanes, F32))
                b.store(b.fmul(before, shrink), self.sums[2 * i + j])
        tile = b.mul(d, b.mul(self.c["tiles"], I64(self.step * self.step)))
        values = self.at(self.v, b.add(tile, b.mul(key, I64(self.step))))
        self._product(s["chances"], self.p_stride, values, b.lshr(begin, I64(1)), b.lshr(stop, I64(1)))
        for i in range(self.m):
            for j in range(2):
                at = self.at(mixed, i * self.dim + j * self.lanes, F32)
                self.store(b.load(self.sums[2 * i + j], typ=self.floats), at)

    def _finish(self, row: ir.Value) -> None:
        """Divide by the sum of the probabilities."""
        b, s = self.b, self.s
        total = self.load(self.at(s["total"], b.mul(row, I64(self.lanes)), F32))
        (total,) = self.totals([total])
        share = b.fdiv(self.float_splat(1.0), total)
        mixed = self.at(s["mixed"], b.mul(row, I64(self.dim)), F32)
        to = self.at(self.c["out"], b.load(self.at(s["place"], row, I64), typ=I64))
        with self.loop(I64(0), I64(self.dim), self.step) as d:
            both = [self.load(self.at(mixed, b.add(d, I64(j)), F32)) for j in (0, self.lanes)]
            rounded = self.round_joined(*(b.fmul(value, share) for value in both))
            b.store(rounded, self.at(to, d), align=2)
