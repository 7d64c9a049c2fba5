"""Machine code that makes calls of other generated code, so that nothing happens in Python between them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from tokenwell.engine.kernels.cpu_ir import I32, I64, PTR, Emitter, Isa, compile_module

# What the function gets: a pointer to these 64-bit fields, in this order. A call is three of them: address, context, threads.
FIELDS = {"calls": PTR, "count": I64, "fork": I64}


def compile_runner(isa: Isa) -> tuple[int, Any]:
    """The address of a function that makes each call, its counter at 0, on several threads through `fork`; the code's owner."""
    module = ir.Module()
    _Runner(module, isa)
    engine = compile_module(module, isa)
    return engine.get_function_address("run_calls"), engine


class _Runner(Emitter):
    def __init__(self, module: ir.Module, isa: Isa) -> None:
        super().__init__(module, isa, "run_calls")
        b = self.b
        c = self.fields(FIELDS)
        one = ir.FunctionType(ir.VoidType(), [PTR]).as_pointer()
        fork = b.inttoptr(c["fork"], ir.FunctionType(ir.VoidType(), [PTR, PTR, I32, I32]).as_pointer())
        with self.loop(I64(0), c["count"], 1) as index:
            call = self.at(c["calls"], b.mul(index, I64(3)), I64)
            function, context = (b.load(self.at(call, place, I64), typ=I64) for place in (0, 1))
            threads = b.trunc(b.load(self.at(call, 2, I64), typ=I64), I32)
            context = b.inttoptr(context, PTR)
            b.store(I64(0), context)
            with b.if_else(b.icmp_signed(">", threads, I32(1))) as (several, alone):
                with several:
                    b.call(fork, [b.inttoptr(function, PTR), context, threads, I32(0)])
                with alone:
                    b.call(b.inttoptr(function, one), [context])
        b.ret_void()
