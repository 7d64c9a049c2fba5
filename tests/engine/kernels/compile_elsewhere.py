"""Compiles every kernel that a model launches for a card that is not here, and says which would not run there.

    python -m tests.engine.kernels.compile_elsewhere gfx1100 benchmarks/models/qwen3-8b.json [--quantization fp8]

Tensors have shapes and no memory (torch's "meta" device), and Triton compiles what it is asked for without launching it. So this
shows what a compiler refuses and what needs more shared memory than there is, but neither right answers nor speed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from tokenwell.engine.platform import accelerator

META = torch.device("meta")
WINDOW, ROWS, PAGES = 8192, 256, 64


@dataclass(frozen=True)
class Card:
    """What kernels ask of a card. Shared memory as CUDA's and AMD's programming guides say it for one program."""

    target: GPUTarget
    shared_bytes: int
    processors: int
    pdl: bool = False
    fp8: bool = False


CARDS = {
    "sm_75": Card(GPUTarget("cuda", 75, 32), 64 << 10, 40),  # T4
    "sm_80": Card(GPUTarget("cuda", 80, 32), 163 << 10, 108),  # A100
    "sm_86": Card(GPUTarget("cuda", 86, 32), 99 << 10, 82),  # RTX 3090
    "sm_89": Card(GPUTarget("cuda", 89, 32), 99 << 10, 128, fp8=True),  # RTX 4090
    "sm_90": Card(GPUTarget("cuda", 90, 32), 227 << 10, 132, pdl=True, fp8=True),  # H200
    "sm_100": Card(GPUTarget("cuda", 100, 32), 227 << 10, 148, pdl=True, fp8=True),  # B200
    "sm_120": Card(GPUTarget("cuda", 120, 32), 99 << 10, 170, pdl=True, fp8=True),  # RTX 5090
    "gfx942": Card(GPUTarget("hip", "gfx942", 64), 64 << 10, 304),  # MI300X
    "gfx1100": Card(GPUTarget("hip", "gfx1100", 32), 64 << 10, 96),  # RX 7900 XTX
    "gfx1201": Card(GPUTarget("hip", "gfx1201", 32), 64 << 10, 64),  # RX 9070 XT
}


@dataclass
class Found:
    """What was compiled, and what is wrong with it."""

    kernels: dict[str, Any] = field(default_factory=dict)  # by hash
    wrong: dict[str, None] = field(default_factory=dict)  # each once, in order

    def attempt(self, what: str, work: Callable[[], object]) -> None:
        """Do something of which every kernel is compiled, though some cannot be."""
        try:
            work()
        except Exception as error:
            self.wrong[f"{what}: {type(error).__name__}: {error}"] = None


def pretend(card: Card) -> Found:
    """From now on "meta" is such a card, and kernels are compiled, not launched. Comes before the engine is imported."""
    found = Found()
    utils = SimpleNamespace(get_device_properties=lambda index: {"max_shared_mem": card.shared_bytes})
    active: Any = SimpleNamespace(
        utils=utils, get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: card.target
    )
    driver.set_active(active)
    compiled = jit.JITFunction.run

    def run(kernel: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> None:
        try:
            made = compiled(kernel, *given, grid=(1,), warmup=True, **named)
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            found.wrong[f"{kernel.__name__}: {type(error).__name__}: {said[-1]}"] = None
            return
        found.kernels[made.hash] = made
        if made.metadata.shared > card.shared_bytes:
            shape = {name: value for name, value in named.items() if isinstance(value, int)}
            told = f"{made.metadata.shared} bytes of shared memory, {card.shared_bytes} are there: {shape}"
            found.wrong[f"{kernel.__name__}: {told}"] = None

    def sent(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
        return [torch.empty(array.shape, dtype=torch.from_numpy(array).dtype, device=META) for array in arrays]

    jit.JITFunction.run = run  # type: ignore[method-assign]
    answers: dict[str, Any] = {
        "kernels_reason_not": lambda device: None, "processors": lambda device: card.processors,
        "dependent_launch": lambda device: card.pdl, "fp8_units": lambda device: card.fp8,
        "knows_e4m3": lambda device: card.fp8,
        "held_bytes": lambda itemsize, device: itemsize if card.target.backend == "cuda" else max(2, itemsize),
        "graphs_reason_not": lambda device: "nothing is computed", "refresh": lambda arrays, packed: None,
        "uploads": sent, "upload": lambda array, device: sent([array], device)[0], "readback": lambda tensor: tensor,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(accelerator, name, answer)
    return found


def launch(
    found: Found, config: Path, quantization: str, kv_cache_dtype: str, rows: Sequence[int], prompts: Sequence[int]
) -> None:
    """Decode steps of so many rows, prompts of so many tokens, and draws, of a model with these shapes in bfloat16."""
    from tokenwell.checkpoint.recipe import read_recipe
    from tokenwell.engine.attention import choose
    from tokenwell.engine.models import build as building
    from tokenwell.engine.models import registry
    from tokenwell.engine.models.config import Raw
    from tokenwell.engine.run import sampler
    from tokenwell.engine.run.grammar import Grammars
    from tokenwell.engine.run.graphs import DecodeGraphs, StepMemory
    from tokenwell.engine.run.kv import KvPool
    from tokenwell.engine.run.parallel import Ranks
    from tokenwell.engine.run.rows import Row
    from tokenwell.engine.run.worker import Worker
    from tokenwell.engine.schedule.plan import AddRow, RunRow, StepPlan
    from tokenwell.engine.weights.dummy import DummyCheckpoint
    from tokenwell.engine.weights.source import Source
    from tokenwell.wire.sampling import Sampling

    for module in (choose, building):  # nothing can be compared where nothing is computed
        for name in ("try_first", "disagreement", "sharing_disagreement"):
            if hasattr(module, name):
                setattr(module, name, lambda *given: None)
    DummyCheckpoint.read = lambda *given: None  # type: ignore[method-assign]
    checkpoint = DummyCheckpoint.open(config)
    entry, raw, dtype = registry.find(checkpoint.config), Raw(checkpoint.config), torch.bfloat16
    facts, recipe = entry.read(raw), read_recipe(checkpoint.config, quantization)
    kv = torch.float8_e4m3fn if kv_cache_dtype == "fp8" else dtype
    build = building.Build(Source(checkpoint, META, dtype, 0, 1, recipe), facts, Ranks(), 16, kv_dtype=kv, positions=WINDOW)
    model = entry.build(build, raw)
    pool = KvPool(build.groups, build.page_bytes, PAGES, kv, META, build.folds, {})
    grammars = Grammars(config.parent, facts.vocabulary)
    worker = Worker(model, build.groups, pool, META, grammars, max_num_seqs=ROWS, max_model_len=WINDOW)
    memory = StepMemory(worker._groups, worker._caches, worker._tables, worker._last_tokens, WINDOW)
    graphs = DecodeGraphs(worker._logits, memory, ROWS)
    for count in rows:
        found.attempt(f"a step of {count} rows", lambda count=count: graphs.step(count))  # type: ignore[misc]
    nothing: tuple[tuple[int, ...], ...] = ((),) * len(build.groups)
    for length in prompts:
        worker.forget_rows()
        added = AddRow(0, [0] * length, length, Sampling(temperature=0.0), nothing)
        plan = StepPlan(0, add=(added,), run=(RunRow(0, 0, length, nothing, True),))
        found.attempt(f"a prompt of {length} tokens", lambda plan=plan: worker.launch(plan))  # type: ignore[misc]
    for sampling in (Sampling(temperature=0.0), Sampling(), Sampling(top_p=0.9)):
        for kind in (torch.float32, dtype):
            logits = torch.empty(2, facts.vocabulary, device=META, dtype=kind)
            drawn = [Row(0, [0], 1, sampling)] * 2
            found.attempt(f"a draw with {sampling}", lambda drawn=drawn, logits=logits: sampler.draw(logits, drawn, None))  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", choices=CARDS)
    parser.add_argument("config", type=Path, help="a config.json")
    parser.add_argument("--quantization", default="auto")
    parser.add_argument("--kv-cache-dtype", default="auto")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 8, 16, 17, 64, 256])
    parser.add_argument("--prompts", type=int, nargs="+", default=[8, 64, 128, 512, 2048])
    options = parser.parse_args()
    found = pretend(CARDS[options.card])
    with torch.inference_mode():
        launch(found, options.config, options.quantization, options.kv_cache_dtype, options.rows, options.prompts)
    print(f"{options.card}: {len(found.kernels)} kernels compiled", *found.wrong, sep="\n")
    raise SystemExit(bool(found.wrong))


if __name__ == "__main__":
    main()
