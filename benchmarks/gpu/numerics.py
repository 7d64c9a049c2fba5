"""How exact is the arithmetic? Quantised models at real widths against float32 with the same weights and the same decisions.

The engine takes a few steps: a long prompt, short prompts beside a decoding row, then single tokens in 24 rows, 5 and 1. Every
layer's output is compared with its double's (`double`) for the same input, and the logits with those of a double that goes from
the token ids to the end by itself. Both take over which e4m3 code a number got and which experts a token got, which are judged
by themselves: the codes may be no further from the double's numbers than 1.1 times its own codes, and an expert that was passed
over no better than a twentieth of the deviation of the router's logits. Three distances are reported without a limit: of a
double that decides by itself, of the unquantised model in float32, and of the engine with a bf16 cache that stores K and V.

Prints one JSON line a case, then a table. Layers are few and the vocabulary is short, so that the float32 copies fit; cases run
side by side, a process each.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.cases import MODELS  # noqa: E402
from benchmarks.gpu.double import Decisions, caches_for, double, noted, relative, with_caches  # noqa: E402
from benchmarks.gpu.packing import pack_experts, pack_linears  # noqa: E402
from tokenwell.checkpoint.recipe import read_recipe  # noqa: E402
from tokenwell.engine.attention import choose  # noqa: E402
from tokenwell.engine.kernels import trust  # noqa: E402
from tokenwell.engine.kernels.codes import Codes  # noqa: E402
from tokenwell.engine.kernels.compiling import side_by_side  # noqa: E402
from tokenwell.engine.layers.norm import Stream  # noqa: E402
from tokenwell.engine.models import registry  # noqa: E402
from tokenwell.engine.models.build import Build  # noqa: E402
from tokenwell.engine.models.config import Raw  # noqa: E402
from tokenwell.engine.platform.choose import open_platform  # noqa: E402
from tokenwell.engine.run.batch import Batch  # noqa: E402
from tokenwell.engine.run.grammar import Grammars  # noqa: E402
from tokenwell.engine.run.kv import KvPool  # noqa: E402
from tokenwell.engine.run.parallel import Ranks  # noqa: E402
from tokenwell.engine.run.worker import Worker  # noqa: E402
from tokenwell.engine.schedule.plan import AddRow, RunRow, StepPlan  # noqa: E402
from tokenwell.engine.weights.dummy import DummyCheckpoint  # noqa: E402
from tokenwell.engine.weights.source import Source  # noqa: E402
from tokenwell.wire.cache import pages_for  # noqa: E402
from tokenwell.wire.sampling import Sampling  # noqa: E402

LIMITS = {"layer_error": 0.01, "logits_error": 0.02, "rounding": 1.1, "regret": 0.05}
_WINDOW = 2048
_ALTERNATING = ["sliding_attention", "full_attention"]


@dataclass(frozen=True)
class Case:
    """One model in one format; `config` is changed by `changes`."""

    config: str
    quantization: str = "none"  # fp8, int4 or mxfp4
    kv: str = "bf16"
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.config} {self.quantization} kv {self.kv}"


_SHORT = {"num_hidden_layers": 4, "layer_types": _ALTERNATING * 2, "vocab_size": 32_768}
_SHORT_E = {
    "num_hidden_layers": 8, "layer_types": _ALTERNATING * 4, "num_kv_shared_layers": 4, "vocab_size": 32_768,
    "vocab_size_per_layer_input": 32_768,
}  # fmt: skip
CASES = (
    Case("gpt-oss-20b", "mxfp4", changes={**_SHORT, "quantization_config": None}),
    Case("gemma-4-26b-a4b", "fp8", changes=_SHORT),
    Case("gemma-4-31b", "int4", changes=_SHORT),
    Case("gemma-4-e4b", "fp8", "fp8", changes=_SHORT_E),
    Case("qwen3-8b", "fp8", changes={"num_hidden_layers": 4, "vocab_size": 32_768}),
    Case("qwen3-8b", "int4", "fp8", changes={"num_hidden_layers": 4, "vocab_size": 32_768}),
)
TINY = Case("tiny", "fp8", "fp8", changes={"hidden_size": 256, "intermediate_size": 384, "head_dim": 32})


# ---------------------------------------------------------------- models


@dataclass
class Made:
    """A model that was built, with what its worker needs."""

    build: Build
    model: Any
    grammars: Grammars

    def worker(self, rows: int, pages: int) -> Worker:
        build = self.build
        assert build.kv_dtype is not None
        pool = KvPool(build.groups, build.page_bytes, pages, build.kv_dtype, build.device, build.folds)
        return Worker(
            self.model, build.groups, pool, build.device, self.grammars, max_num_seqs=rows, max_model_len=_WINDOW, graphs=False
        )


class MildCheckpoint(DummyCheckpoint):
    """Random weights whose attention looks at more than one token.

    Gemma's queries and keys are normed and not divided by the root of the head size: with factors of one in these norms the best
    score would take all, and a rounding could choose another. Trained factors are small.
    """

    def _draw(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        super()._draw(name, tensor, generator)
        if name.endswith("q_norm.weight") and "text_config" in self.config:
            tensor.fill_(tensor.shape[-1] ** -0.5)


class UnfoldedBuild(Build):
    """Stores keys also where they follow from values."""

    def _folds(self, layer: Any) -> bool:
        return False


def make(config: Path, device: torch.device, quantization: str, kv: torch.dtype | None, kind: type[Build] = Build) -> Made:
    """The model of a config.json with random weights in bfloat16; `quantization` as the engine's option."""
    checkpoint = MildCheckpoint.open(config)
    raw = Raw(checkpoint.config)
    entry = registry.find(checkpoint.config)
    facts = entry.read(raw)
    source = Source(checkpoint, device, torch.bfloat16, recipe=read_recipe(checkpoint.config, quantization))
    build = kind(source, facts, Ranks(), 16, kv_dtype=kv, positions=_WINDOW)
    return Made(build, entry.build(build, raw), Grammars(checkpoint.folder, facts.vocabulary))


@contextmanager
def untried() -> Iterator[None]:
    """Meanwhile attention backends are taken without a trial: here they are compared anyway."""
    module: Any = choose
    trial = module.disagreement
    module.disagreement = lambda *given: None
    try:
        yield
    finally:
        module.disagreement = trial


def write_config(case: Case, folder: Path) -> Path:
    """The case's config.json."""
    config = json.loads((MODELS / f"{case.config}.json").read_text())
    config.get("text_config", config).update(case.changes)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


# ---------------------------------------------------------------- steps


def steps_for(groups: Sequence[Any], vocabulary: int, long: int, short: int, rows: int) -> tuple[list[StepPlan], int]:
    """Plans with all tokens known beforehand, and how many pages they take."""
    chance, free = random.Random(1), 1
    lengths = [long + 4, *[short + 2] * (rows - 1)]
    adds = []
    for row, length in enumerate(lengths):
        tables = []
        for group in groups:
            count = pages_for(length, group)
            tables.append(tuple(range(free, free + count)))
            free += count
        tokens = [chance.randrange(vocabulary) for _ in range(length)]
        adds.append(AddRow(row, tokens, length, Sampling(temperature=0.0, max_tokens=1), tuple(tables)))
    done, nothing = [0] * rows, ((),) * len(groups)

    def step(number: int, counts: dict[int, int], add: Sequence[AddRow] = ()) -> StepPlan:
        runs = []
        for row, count in counts.items():
            runs.append(RunRow(row, done[row], count, nothing, True))
            done[row] += count
        return StepPlan(number, add=tuple(add), run=tuple(runs))

    plans = [
        step(0, {0: long}, adds[:1]),
        step(1, {0: 1, **dict.fromkeys(range(1, rows), short)}, adds[1:]),
        step(2, dict.fromkeys(range(rows), 1)),
        step(3, dict.fromkeys(range(min(5, rows)), 1)),
        step(4, {0: 1}),
    ]
    return plans, free


def compiling_calls(made: Made, plans: Sequence[StepPlan], rows: int, pages: int) -> list[Callable[[], object]]:
    """The plans, each on a worker of its own, for what they compile."""
    adds = tuple(added for plan in plans for added in plan.add)
    return [partial(made.worker(rows, pages).launch, StepPlan(plan.step, add=adds, run=plan.run)) for plan in plans]


class Watched:
    """A layer whose every call is made by its double, too, in float32 for the same input."""

    def __init__(self, layer: Any, twin: Any, watch: Watch) -> None:
        self.layer = layer
        self.twin = twin
        self.watch = watch
        self.errors: list[float] = []  # of each call

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __call__(self, *given: Any, **named: Any) -> Any:
        # The layer may overwrite what it is given.
        inputs = [self._wide(one) for one in given]
        found = self.layer(*given, **named)
        decisions = self.watch.decisions
        decisions.shared = decisions.judged = True
        with trust.plain():
            exact = self.twin(*inputs, **named)
        decisions.judged = False
        both = zip(found, exact, strict=True) if isinstance(found, tuple) else ((found, exact),)
        for one, other in both:
            if isinstance(one, Codes):
                decisions.judge(one.dense(), other)
            elif one is not None:  # norms that the next product makes on the way
                self.errors.append(relative(one, other))
        return found

    def _wide(self, given: Any) -> Any:
        if isinstance(given, Batch):
            if self.watch.batch is None:
                self.watch.batch = given
            return with_caches(given, self.watch.caches)
        if isinstance(given, Codes):
            return given.dense()
        if isinstance(given, Stream):
            return Stream(*map(self._wide, given))
        return given.to(torch.float32, copy=True) if isinstance(given, torch.Tensor) and given.is_floating_point() else given


class Watch:
    """An engine whose layers are watched, and the doubles that go along with it by themselves."""

    def __init__(self, made: Made, unquantised: Any, worker: Worker, same_cache: bool) -> None:
        """`same_cache`: the doubles read the engine's 8-bit cache."""
        self.decisions = Decisions()
        caches = worker._caches
        shared = None if same_cache else torch.float32
        self.caches = caches_for(caches, shared, self.decisions)
        self.batch: Batch | None = None
        self.worker = worker
        self.model = double(made.model, self.decisions)
        own = caches[0].v.dtype if same_cache else torch.float32
        self.streams = {
            "logits_error": (self.model, caches_for(caches, shared, self.decisions), True),
            "own_decisions": (self.model, caches_for(caches, own), False),
            "to_unquantised": (unquantised, caches_for(caches, torch.float32), False),
        }
        self.layers = [Watched(layer, twin, self) for layer, twin in zip(made.model.layers, self.model.layers, strict=True)]
        made.model.layers = self.layers
        self.far: dict[str, list[float]] = {name: [] for name in self.streams}

    def run(self, plan: StepPlan) -> torch.Tensor:
        """The engine's logits [rows, vocabulary] of a step; how far they are from the doubles' is kept."""
        self.batch = None
        self.decisions.forget()
        with noted(self.decisions, self.worker.device):
            logits = self.worker.launch(plan).logits
        assert logits is not None and self.batch is not None
        for name, (model, caches, shared) in self.streams.items():
            self.decisions.shared = shared
            with trust.plain():
                exact = model.logits(model.forward(with_caches(self.batch, caches)))
            self.far[name].append(relative(logits, exact))
        return logits


# ---------------------------------------------------------------- cases


def measure(case: Case, device_name: str, long: int, short: int, rows: int) -> dict[str, object]:
    """One case: prompts of `long` and `short` tokens in `rows` rows."""
    with torch.inference_mode():
        return _measure(case, device_name, long, short, rows)


def _measure(case: Case, device_name: str, long: int, short: int, rows: int) -> dict[str, object]:
    began = time.perf_counter()
    platform, _ = open_platform(device_name)
    device = platform.device
    kv = torch.float8_e4m3fn if case.kv == "fp8" else None
    quantised = "fp8" if case.quantization == "fp8" else "none"
    with tempfile.TemporaryDirectory() as folder, untried():
        config = write_config(case, Path(folder))
        made = make(config, device, "none", kv)
        unquantised = double(made.model, Decisions())
        pack = {"int4": pack_linears, "mxfp4": pack_experts}.get(case.quantization, lambda model: None)
        if quantised == "fp8":
            del made
            made = make(config, device, quantised, kv)
        pack(made.model)
        other = made
        if special := case.kv == "fp8" or any(group.folded for group in made.build.groups):
            other = make(config, device, quantised, None, UnfoldedBuild)
            pack(other.model)
    sizes = (made.build.facts.vocabulary, long, short, rows)
    plans, pages = steps_for(made.build.groups, *sizes)
    other_plans, other_pages = steps_for(other.build.groups, *sizes)
    side_by_side(compiling_calls(made, plans, rows, pages) + compiling_calls(other, other_plans, rows, other_pages), device)
    # Before layers are watched: models may be the same.
    beside = other.worker(rows, other_pages)
    expected = [beside.launch(plan).logits for plan in other_plans]
    watch = Watch(made, unquantised, made.worker(rows, pages), case.kv == "fp8")
    found = [watch.run(plan) for plan in plans]
    apart = [relative(one, two) for one, two in zip(found, expected, strict=True) if two is not None]
    line = _line(case, watch, max(apart) if special else None, device)
    return line | {"seconds": round(time.perf_counter() - began, 1)}


def _line(case: Case, watch: Watch, apart: float | None, device: torch.device) -> dict[str, object]:
    decisions = watch.decisions
    found = {
        "layer_error": max(max(layer.errors) for layer in watch.layers), "logits_error": max(watch.far["logits_error"]),
        "rounding": decisions.rounding, "regret": decisions.regret,
    }  # fmt: skip
    line: dict[str, object] = {"benchmark": "numerics", "model": case.config, "format": case.quantization, "kv": case.kv}
    for name, value in found.items():
        line |= {name: round(value, 5), f"{name}_ratio": round(value / LIMITS[name], 3)}
    others = decisions.others
    line |= {
        "passes": all(value <= LIMITS[name] for name, value in found.items()),  # NaN passes nothing
        "logits_errors": [round(error, 5) for error in watch.far["logits_error"]],
        "own_decisions": round(max(watch.far["own_decisions"]), 4), "to_unquantised": round(max(watch.far["to_unquantised"]), 4),
        "to_plain_cache": None if apart is None else round(apart, 4), "device": device.type,
        "other_experts": round(sum(others) / max(1, len(others)), 4),
    }  # fmt: skip
    return line


def table(lines: Sequence[dict[str, Any]]) -> str:
    """What was measured, with limits and ratios to them."""
    columns = ("model", "format", "kv", *(part for name in LIMITS for part in (name, f"{name}_ratio")))
    columns += ("own_decisions", "to_unquantised", "to_plain_cache", "passes")
    cells = [list(columns), [str(LIMITS.get(name, "")) for name in columns]]
    cells += [["" if line.get(name) is None else str(line[name]) for name in columns] for line in lines]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help=f"of {', '.join(case.config for case in CASES)} or tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--long", type=int, default=1200, help="tokens of the long prompt")
    parser.add_argument("--short", type=int, default=9, help="tokens of the short ones")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    everything = (*CASES, TINY)
    sizes = (options.long, options.short, options.rows)
    if options.child is not None:
        print(json.dumps(measure(everything[options.child], options.device, *sizes)))
        return []
    chosen = [place for place, case in enumerate(everything) if case.config in (options.model or {one.config for one in CASES})]
    lines: list[dict[str, Any]] = []
    with ThreadPoolExecutor(len(chosen)) as waiting:
        for done in as_completed([waiting.submit(_run, place, options) for place in chosen]):
            place, process = done.result()
            if process.returncode:
                print(f"{everything[place].name} failed:\n{process.stderr[-1500:]}", flush=True)
                continue
            lines.append(json.loads(process.stdout.splitlines()[-1]))
            print(process.stdout.splitlines()[-1], flush=True)
    print(table(lines))
    return lines


def _run(place: int, options: argparse.Namespace) -> tuple[int, subprocess.CompletedProcess[str]]:
    """One case in a process of its own."""
    command = [sys.executable, __file__, "--child", str(place), "--device", options.device]
    for name in ("long", "short", "rows"):
        command += [f"--{name}", str(getattr(options, name))]
    return place, subprocess.run(command, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
