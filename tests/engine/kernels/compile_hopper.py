"""Compiles the products of experts_hopper for the card, without one."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from tokenwell.engine.kernels import experts_hopper_code

TYPES = {"scales_at": "*u8", "starts_at": "*i32", "limit": "fp32", "bias_at": "*bf16", "y_at": "*fp16"}


def main() -> None:
    """For a few and for many slots an expert; raises what the compiler raises."""
    kernel = experts_hopper_code.product
    names = kernel.arg_names
    for gated, slots, warps, units in ((True, 8, 4, 64), (False, 64, 8, 64)):
        given = {"EXPERTS": 32, "IN": 2880, "GATED": gated, "SLOTS": slots, "STAGES": 2, "EARLY": gated, "PDL": True}
        tiles = {
            "words": f"tensordesc<i32[2, {units}, 32],{gl.NVMMASharedLayout(128, 32, 3)!r}>",
            "inputs": f"tensordesc<fp16[{slots}, 256],{gl.NVMMASharedLayout(128, 16, 2)!r}>",
        }
        signature = {n: "constexpr" if n in given else {**TYPES, **tiles}.get(n, "i32") for n in names}
        constants = {(names.index(name),): value for name, value in given.items()}
        aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name.endswith("_at")}
        source = GluonASTSource(kernel, signature, constants, aligned)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
        assert "wgmma.mma_async" in made.asm["ptx"]
        assert "cp.async.bulk.tensor" in made.asm["ptx"]


if __name__ == "__main__":
    main()
