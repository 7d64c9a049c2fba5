"""How near an engine comes to what a card could do: a few constants an engine, each with where it comes from.

Fitted on: the native engine at one row and at 64 on an H200 (docs/log.md), vLLM 0.26 at one row and its prefill on the same
card (issue C), and single-card figures of the field reports for eager engines and llama.cpp. Everything else that
`benchmarks/plan_speed.py` prints (8 and 256 rows, long prompts, A100 runs, pairs of cards) is a check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from tokenwell.plan.card import ModelCard
from tokenwell.wire.errors import SettingsError

FITTED_CLOCK_GHZ = 1.98  # of the H200, where a kernel's fixed cost was fitted; it falls with a faster clock


@dataclass(frozen=True)
class Engine:
    """One engine's habits. Kernels and operations are those of one layer."""

    name: str
    kernels: int  # of a dense layer in a recorded step
    expert_kernels: int  # that a mixture adds beside or instead of a dense block
    input_kernels: int  # that per-layer inputs (Gemma 4 E) add
    kernel_us: float  # fixed cost of a kernel at one row: it starts, fills and drains
    rows_kernel_us: float  # at several rows, where kernels work in tiles
    eager_us: float  # of the host, to launch one operation without graphs
    records: frozenset[str]  # vendors on whose cards it records steps
    step_ms: float  # of the host, for every step, not hidden behind the card
    request_ms: float  # before a request's first step: HTTP, tokeniser, scheduler
    prefill: Mapping[str, float]  # share of the products' rate: "dense", "expert", and both with fp8 products
    attention: float  # share of the products' rate in attention over many tokens
    chunk: int  # prompt tokens of one step
    eager_modules: bool = False  # without graphs it runs torch modules of many operations; otherwise the same kernels
    one_by_one: bool = False  # without graphs a kernel starts when the one before has ended: launches add up with the work
    folds: bool = False  # where K follows from V it reads V alone
    shortcut: bool = False  # prompt tokens skip the layers behind the last one with K and V of its own
    pipelined: bool = False  # the parts of a layer split work on different chunks of a prompt at once
    widening: float = 1.0  # share of the reading speed with fp8 weights on a card without fp8 products


_TILES = {"dense": 0.65, "expert": 0.51, "dense fp8": 0.37, "expert fp8": 0.28}
# H200: 5.23, 3.02, 4.03 ms against the same limits. Eager: 18.5 tok/s of the 26B on an A100.
_VLLM = Engine(
    "vllm",
    kernels=12,
    expert_kernels=10,
    input_kernels=6,
    kernel_us=4.0,
    rows_kernel_us=4.0,
    eager_us=30.0,
    records=frozenset({"nvidia", "amd"}),
    step_ms=0.0,
    request_ms=15.0,
    prefill=_TILES,
    attention=0.5,
    eager_modules=True,
    chunk=8192,
)
_ENGINES = {
    # H200: 3.98, 1.69, 2.20, 2.30 ms against limits of 3.59, 0.89, 1.13, 1.28 with 7, 9, 12 and 11 kernels a layer.
    "native": Engine(
        "native",
        kernels=7,
        expert_kernels=4,
        input_kernels=4,
        kernel_us=2.4,
        rows_kernel_us=8.0,
        eager_us=20.0,
        records=frozenset({"nvidia", "amd", "intel"}),
        step_ms=0.0,
        request_ms=5.0,
        prefill=_TILES,
        attention=0.5,
        folds=True,
        shortcut=True,
        chunk=8192,
    ),
    "vllm": _VLLM,
    # B580, two models of 28 layers: 12.2 ms a token although one has a quarter of the other's weights; first tokens 25 to 30 ms.
    # A770, fp8: 65.8 ms for 8.1 GB is a third of what the card reads otherwise.
    "ipex-llm": replace(
        _VLLM, name="ipex-llm", records=frozenset(), request_ms=5.0, prefill={"dense": 0.65, "expert": 0.51}, widening=0.34
    ),
    # Two 4080 Super: 60 to 70 tok/s and 1000 to 1500 of prefill with a mixture of 2 to 8 bits a weight.
    # B580, Qwen2 1.5B Q4_K: 101 tok/s (ipex-llm issue 12991) is 12 us a kernel beside reading.
    "llama.cpp": Engine(
        "llama.cpp",
        kernels=20,
        expert_kernels=8,
        input_kernels=6,
        kernel_us=3.0,
        rows_kernel_us=4.0,
        eager_us=12.0,
        records=frozenset({"nvidia", "amd"}),
        step_ms=0.3,
        request_ms=5.0,
        prefill={"dense": 0.6, "expert": 0.15},
        attention=0.3,
        one_by_one=True,
        pipelined=True,
        chunk=2048,
    ),
}
_PREFILL_EAGER = 2  # B580: the first step launches about twice as many operations as the others (25 ms against 12)

# Operations of a layer without graphs: attention 8, gated block 4, a norm one and a half (some are written out), a mixture 28.
# 12 + 1.5 x 2 x 30 us x 28 layers is 12.6 ms (B580: 12.2); 40 + 1.5 x 9 is 48 ms for the 26B's 30 layers (A100: 54).
_EAGER_OPERATIONS = {"layer": 12.0, "norm": 1.5, "mixture": 28.0, "inputs": 6.0}

# The native engine on a CPU (docs/log.md): beside reading, a recorded step of the bundled model costs 0.4 ms for its 10 layers;
# products reach 187 of 358 GFLOP/s on one Zen 4 core, 421 of 717 on two.
_CPU_KERNEL_US = 4.0
_CPU_PREFILL = 0.55
_CPU_STEP_MS, _CPU_REQUEST_MS = 0.5, 15.0  # nothing is hidden behind a card, and the gateway takes its time from the same cores

_DENSE_BLOCK = re.compile(r"\.(mlp(\.shared_expert)?\.down_proj|ffn_down(_shexp)?)\b")  # names of the hub, names of GGUF


def find_engine(name: str) -> Engine:
    """The constants of "native", "vllm==0.19", "llama.cpp" or "ipex-llm". Raises SettingsError with the known names."""
    engine = _ENGINES.get(name.partition("==")[0].strip().lower())
    if engine is None:
        raise SettingsError(f"--engine {name!r} is not known; known are {', '.join(_ENGINES)}")
    return engine


def layer_kernels(card: ModelCard, engine: Engine) -> int:
    """Kernels of one layer in a recorded step. A mixture beside a dense block (Gemma 4) has both."""
    both = 1 if card.experts and _has_dense_block(card) else 0
    inputs = engine.input_kernels if _has_inputs(card) else 0
    # The mixture's kernels stand in for the dense block's two, unless it has both.
    return engine.kernels + (engine.expert_kernels - 2 + 3 * both if card.experts else 0) + inputs


def eager_operations(card: ModelCard, engine: Engine) -> float:
    """Operations that the host launches for one layer of a decode step without graphs."""
    if not engine.eager_modules:
        return layer_kernels(card, engine)
    norms = sum(tensor.role == "norm" for tensor in card.tensors) / len(card.layers)
    operations = _EAGER_OPERATIONS["layer"] + _EAGER_OPERATIONS["norm"] * norms
    operations += _EAGER_OPERATIONS["mixture"] if card.experts else 0
    return operations + (_EAGER_OPERATIONS["inputs"] if _has_inputs(card) else 0)


def eager_prefill_operations(card: ModelCard, engine: Engine) -> float:
    """The same for a prompt's step."""
    return eager_operations(card, engine) * (_PREFILL_EAGER if engine.eager_modules else 1)


def kernel_us(engine: Engine, vendor: str, clock_ghz: float, rows: int) -> float:
    """Fixed cost of a kernel on a card with that clock."""
    if vendor == "cpu":
        return _CPU_KERNEL_US
    return (engine.kernel_us if rows == 1 else engine.rows_kernel_us) * FITTED_CLOCK_GHZ / clock_ghz


def step_ms(engine: Engine, vendor: str) -> float:
    """What the host adds to every step."""
    return max(engine.step_ms, _CPU_STEP_MS) if vendor == "cpu" else engine.step_ms


def request_ms(engine: Engine, vendor: str) -> float:
    """What comes before a request's first step."""
    return max(engine.request_ms, _CPU_REQUEST_MS) if vendor == "cpu" else engine.request_ms


def prefill_share(engine: Engine, vendor: str, mixture: bool, fp8: bool) -> float:
    """Share of the products' rate that a prefill gets."""
    if vendor == "cpu":
        return _CPU_PREFILL
    kind = "expert" if mixture else "dense"
    return engine.prefill.get(f"{kind} fp8", engine.prefill[kind]) if fp8 else engine.prefill[kind]


@lru_cache(maxsize=32)
def _has_dense_block(card: ModelCard) -> bool:
    return any(tensor.role == "linear" and _DENSE_BLOCK.search(tensor.name) for tensor in card.tensors)


@lru_cache(maxsize=32)
def _has_inputs(card: ModelCard) -> bool:
    return any(tensor.role == "lookup" for tensor in card.tensors)
