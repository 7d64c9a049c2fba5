"""The kinds of CPU kernels that this machine can run: every kernel test is run with each."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest

from tokenwell.engine.kernels import cpu_pool


def instruction_sets() -> list[tuple[str, object]]:
    """Every kind by name; none without the library or on other processors."""
    if importlib.util.find_spec("llvmlite") is None or cpu_pool.host() is None:
        return []
    from tokenwell.engine.kernels import cpu_ir

    host = cpu_ir.host_isa()
    assert host is not None
    avx2 = cpu_ir.Isa("haswell", "+avx2,+fma", 8, 16, False, max_block=4, max_rows=16)
    kinds = {"host": host, "no-bf16": dataclasses.replace(host, dot_bf16=False), "avx2": avx2}
    return list(kinds.items())


@pytest.fixture(scope="session")
def best() -> list[object]:
    """This processor's own set, if kernels can run here at all."""
    return [isa for _, isa in instruction_sets()[:1]]


@pytest.fixture(params=[pytest.param(isa, id=name) for name, isa in instruction_sets()])
def isa(request: pytest.FixtureRequest) -> object:
    """One instruction set."""
    return request.param
