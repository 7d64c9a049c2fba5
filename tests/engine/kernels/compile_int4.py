"""Compiles the product of few tokens with a wide layer for the card, without one."""

from __future__ import annotations

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tokenwell.engine.kernels import int4

TYPES = {"x_at": "*bf16", "codes_at": "*u8", "scales_at": "*bf16", "residual_at": "*bf16", "y_at": "*bf16"}


def main() -> None:
    """21,504 columns, of which most are a loop that carries tiles as words; raises what the compiler raises."""
    columns, group, split = 21504, 128, 4
    ahead, rolled = int4._ahead(columns, split * group, 1, 3)
    tiles = {"ROWS": 16, "SPLIT": split, "AHEAD": ahead, "ROLLED": rolled, "PDL": True}
    layer = {"COLUMNS": columns, "GROUPS": columns // group, "GROUP": group, "SPAN": group, "GATED": False, "GELU": False}
    given = {"zeros_at": None, "bias_at": None, "tokens": 1, "TOKENS": 1, **layer, **tiles}
    names = int4._few_tokens.arg_names
    signature = {name: "constexpr" if name in given else TYPES.get(name, "i32") for name in names}
    constants = {(names.index(name),): value for name, value in given.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name not in given}
    source = ASTSource(int4._few_tokens, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": split, "launch_pdl": True})
    loop = re.search(r"scf\.for .*? -> \((.*)\)", made.asm["ttgir"])
    assert loop is not None
    assert loop[1].count("xi32") == ahead + 1
    assert "xi8" not in loop[1]
    assert made.asm["ptx"].count("mma.sync") < 42 * 4


if __name__ == "__main__":
    main()
