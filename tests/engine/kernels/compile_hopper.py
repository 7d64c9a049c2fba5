"""Compiles the products of experts_hopper for the card, without one."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from tokenwell.engine.kernels import experts_hopper_narrow, experts_hopper_wide

TYPES = {"scales_at": "*u8", "starts_at": "*i32", "limit": "fp32", "bias_at": "*bf16", "y_at": "*fp16"}


def main() -> None:
    """For few, for many and for any number of slots an expert; raises what the compiler raises."""
    for gated, slots, warps, units in (
        (True, (8,), 4, 32),
        (False, (64,), 8, 64),
        (True, (32, 16), 4, 32),
    ):
        given = {"EXPERTS": 32, "IN": 2880, "GATED": gated, "STAGES": 2, "EARLY": gated, "PDL": True}
        compiled(experts_hopper_narrow.product, given, units, slots, warps)
    for gated, columns in ((True, 2880), (False, 2880), (True, 160)):
        given = {"EXPERTS": 32, "IN": columns, "GATED": gated, "STAGES": 2, "PDL": True}
        compiled(experts_hopper_wide.product, given, 32, (128, 64, 32), 4)


def compiled(kernel: Any, given: dict[str, Any], units: int, slots: tuple[int, ...], warps: int) -> None:
    """A kernel with these constants, whose words come by `units` and inputs by `slots`."""
    names = kernel.arg_names
    tiles = {"words": f"tensordesc<i32[2, {units}, 32],{gl.NVMMASharedLayout(128, 32, 3)!r}>"}
    for place, name in enumerate(("inputs", "half_inputs", "fourth_inputs")):
        if place < len(slots):
            tiles[name] = f"tensordesc<fp16[{slots[place]}, 256],{gl.NVMMASharedLayout(128, 16, 2)!r}>"
        elif name in names:
            given = {**given, name: None}
    signature = {n: "constexpr" if n in given else {**TYPES, **tiles}.get(n, "i32") for n in names}
    constants = {(names.index(name),): value for name, value in given.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name.endswith("_at")}
    source = GluonASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert "wgmma.mma_async" in made.asm["ptx"]
    assert "cp.async.bulk.tensor" in made.asm["ptx"]


if __name__ == "__main__":
    main()
