"""From an EngineSpec to a model that can run: device, weights, KV cache, limits. Every automatic choice is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tokenwell.checkpoint.recipe import read_recipe
from tokenwell.engine import gate
from tokenwell.engine.kernels import cpu_linear, trust
from tokenwell.engine.kinds import one_of_each
from tokenwell.engine.models import registry
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.models.registry import Model
from tokenwell.engine.platform.accelerator import kernels_reason_not
from tokenwell.engine.platform.base import Platform
from tokenwell.engine.platform.choose import open_platform
from tokenwell.engine.platform.memory import peak_bytes, tensor_bytes
from tokenwell.engine.run.grammar import Grammars
from tokenwell.engine.run.kv import KvPool
from tokenwell.engine.run.largest import run_largest, usual_steps
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.run.worker import NOTHING, Beside, Worker
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.engine.weights.quant.cache_scales import read_cache_scales, skip_cache_scales
from tokenwell.engine.weights.read import TORCH_DTYPES
from tokenwell.engine.weights.source import Source
from tokenwell.wire.capacity import (
    GIB,
    Limits,
    Space,
    Wanted,
    fitted,
    full_bytes,
    space_beside_steps,
    space_on_host,
    step_for_pool,
    wanted,
)
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.messages import Choice, Generate, Ready
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WORTH_SHARING = 64 << 20  # bytes that a layer need not read, by arithmetic some times what a kernel more costs
_KV_DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}

Join = Callable[[Platform, int], tuple[Ranks, Choice]]  # meets the other ranks; told the platform and the model's bytes


@dataclass
class Loaded:
    """A worker with the limits that it was built for."""

    worker: Worker
    ready: Ready
    notes: list[str]  # what was skipped in the checkpoint


def load(spec: EngineSpec, join: Join | None = None, rank: int = 0, check: bool | None = None) -> Loaded:
    """Load the checkpoint of `spec`, or the share of it that is `rank`'s, once `join` has met the other ranks.

    `check`: compare kernels with plain torch; None: on accelerators, as tests have shown it for CPUs.
    Raises CheckpointError, SettingsError or CapacityError with what to do.
    """
    started = time.monotonic()
    platform, device_choice = open_platform(spec.device, spec.threads, spec.first_card + rank)
    device = platform.device
    if device.type == "cpu":
        platform.sharers = max(spec.sharers, spec.tp)
    choices = [device_choice]
    checkpoint = _open(spec)
    ranks = Ranks()
    if join is not None:
        ranks, joined = join(platform, checkpoint.total_bytes)
        choices.append(joined)
    if isinstance(checkpoint, Checkpoint) and (threads := platform.suit(checkpoint.total_bytes)) is not None:
        choices.append(threads)
    raw = Raw(checkpoint.config)
    entry = registry.find(checkpoint.config)
    facts = entry.read(raw)
    dtype = _dtype(spec, facts, _stored_dtype(checkpoint), platform, choices)
    recipe = read_recipe(checkpoint.config, spec.quantization)
    want = wanted(spec, facts.window, platform.defaults, recipe.stored == "mxfp4" and recipe.keeps_packed)
    free_at_start = platform.free_bytes()
    source = Source(checkpoint, device, dtype, ranks.rank, ranks.world, recipe)
    offload = _offload(spec, checkpoint, device, free_at_start, choices)
    build = Build(
        source, facts, ranks, spec.page_tokens, offload_tables=offload, kv_dtype=_kv_dtype(spec, dtype, choices),
        positions=want.window,
    )  # fmt: skip
    before = time.monotonic()
    with torch.inference_mode():
        model = entry.build(build, raw)
        scales = _cache_scales(source, build, choices)
        platform.synchronise()
    made = "drawn at random" if spec.load_format == "dummy" else "read"
    notes = [*source.finish(), f"Weights: {checkpoint.total_bytes / GIB:.2f} GiB {made} in {time.monotonic() - before:.1f} s"]
    choices += [*build.choices, _few_rows(dtype, device)]
    made_of = _Parts(model, build, scales, Grammars(checkpoint.folder, facts.vocabulary))
    if check or (check is None and device.type != "cpu"):
        before = time.monotonic()
        with ranks.apart():
            quantised = spec.quantization == "fp8" or recipe.stored == "fp8"
            brief = replace(made_of, model=one_of_each(model))
            make = partial(brief.worker, 1, want.seqs, want.window, spec.graphs and build.records)
            steps = usual_steps(make, len(build.groups), want.seqs, want.budget, want.window)
            choices += gate.check(made_of.worker, build.groups, dtype, quantised, steps)
        _agree(ranks)
        notes.append(f"Kernels compared with plain torch in {time.monotonic() - before:.1f} s")
    weights_bytes = tensor_bytes([model, build.folds], device)
    before = time.monotonic()
    limits = _limits(spec, want, platform, free_at_start, made_of, choices)
    if device.type != "cpu":
        notes.append(f"The largest step was measured in {time.monotonic() - before:.1f} s")
    graphs = spec.graphs and build.records
    if spec.graphs and not graphs and device.type != "cpu":
        choices.append(Choice("recorded steps", "off", "attention that is not ours asks the host how long rows are"))
    beside = _recorded_beside(device, limits.max_num_batched_tokens)
    (shares,) = ranks.least([int(build.shares)])  # what one reads for each row, all do
    if not shares:
        beside = replace(beside, shared_bytes=0)
    worker = made_of.worker(limits.num_pages, limits.max_num_seqs, limits.max_model_len, graphs, beside, limits.step_bytes)
    cards = platform.describe() if ranks.world == 1 else f"{ranks.world} x {platform.describe()}"
    ready = Ready(
        architecture=facts.architecture, device=cards, dtype=str(dtype).removeprefix("torch."),
        vocab_size=facts.vocabulary, max_model_len=limits.max_model_len, max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens, weights_bytes=weights_bytes,
        page_bytes=build.page_bytes, num_pages=limits.num_pages, groups=build.groups,
        load_seconds=time.monotonic() - started, choices=choices, max_num_mixed_tokens=limits.max_num_mixed_tokens,
    )  # fmt: skip
    return Loaded(worker, ready, notes)


@dataclass(frozen=True)
class _Parts:
    """What workers are made of."""

    model: Model
    build: Build
    scales: dict[int, tuple[float, float]]  # of 8-bit keys and values, by layer
    grammars: Grammars

    def worker(
        self, num_pages: int, seqs: int, window: int, graphs: bool = False, beside: Beside = NOTHING, step_bytes: int = 0
    ) -> Worker:
        """A worker with a cache of `num_pages`."""
        build = self.build
        assert build.kv_dtype is not None
        pool = KvPool(build.groups, build.page_bytes, num_pages, build.kv_dtype, build.device, build.folds, self.scales)
        return Worker(
            self.model, build.groups, pool, build.device, self.grammars, max_num_seqs=seqs, max_model_len=window, graphs=graphs,
            beside=beside, step_bytes=step_bytes, ranks=build.ranks,
        )  # fmt: skip


def _agree(ranks: Ranks) -> None:
    """Kernels that one rank does not trust, none uses: what the ranks exchange must have the same dtypes and sizes."""
    known = trust.distrusted()
    agreed = ranks.least([int(family not in known) for family in trust.FAMILIES])
    for family, good in zip(trust.FAMILIES, agreed, strict=True):
        if not good and family not in known:
            trust.distrust(family, "it gave a wrong answer on another rank")


def _limits(
    spec: EngineSpec, want: Wanted, platform: Platform, free_at_start: int, parts: _Parts, choices: list[Choice]
) -> Limits:
    """What fits into memory on every rank."""
    build = parts.build
    space = _space(spec, want, platform, free_at_start, parts, choices)
    # What the poorest rank can hold, all of them use.
    kv_bytes, budget = build.ranks.least([space.kv_bytes, space.budget])
    space = replace(space, kv_bytes=kv_bytes, budget=budget)
    return fitted(want, space, build.groups, build.page_bytes, spec.max_model_len is not None, choices)


def _space(spec: EngineSpec, want: Wanted, platform: Platform, free_at_start: int, parts: _Parts, choices: list[Choice]) -> Space:
    """What this rank has left for the KV cache."""
    build = parts.build
    needed = full_bytes(want, build.groups, build.page_bytes)
    if (share := platform.defaults.host_share) is not None:
        space = space_on_host(spec, want, platform.free_bytes(), share, needed, choices, platform.sharers)
        return step_for_pool(spec, space, build.groups, build.page_bytes, choices)

    def measure(seqs: int, budget: int, window: int) -> int | None:
        def work() -> None:
            with build.ranks.apart():  # a rank that runs out of memory must not leave the others waiting
                run_largest(parts.worker(1, seqs, window), len(build.groups), seqs, budget, window)

        try:
            return peak_bytes(build.device, work)
        except torch.OutOfMemoryError:
            return None

    return space_beside_steps(
        spec, want, measure, build.facts.vocabulary, free_at_start, platform.free_bytes, needed, build.groups, build.page_bytes,
        choices,
    )  # fmt: skip


def _recorded_beside(device: torch.device, step_tokens: int) -> Beside:
    """What is worth recording beside decode steps; on a CPU launching takes no time beside arithmetic."""
    return NOTHING if device.type == "cpu" else Beside(step_tokens, _WORTH_SHARING)


def scheduler_for(ready: Ready, prefix_cache: bool) -> Scheduler:
    """A scheduler with the limits that the engine reports."""
    return Scheduler(
        ready.groups, ready.num_pages, ready.max_num_seqs, ready.max_num_batched_tokens, ready.max_model_len, prefix_cache,
        ready.max_num_mixed_tokens,
    )  # fmt: skip


def warm_up(loaded: Loaded) -> None:
    """Run a short prompt and a few tokens through the whole path, so that the first request is as fast as the others."""
    scheduler = scheduler_for(loaded.ready, prefix_cache=False)
    length = min(8, loaded.ready.max_model_len - 1)
    if length < 1:
        return
    scheduler.add(Generate("warm-up", [0] * length, Sampling(max_tokens=2)))
    while (plan := scheduler.schedule()) is not None:
        scheduler.apply(loaded.worker.run(plan))
    loaded.worker.forget_rows()


def _dtype(
    spec: EngineSpec, facts: ModelFacts, stored: torch.dtype | None, platform: Platform, choices: list[Choice]
) -> torch.dtype:
    if spec.dtype != "auto":
        if spec.dtype not in _DTYPES:
            raise SettingsError(f"--dtype {spec.dtype!r} is not known; use auto, {', '.join(_DTYPES)}")
        choices.append(Choice("dtype", spec.dtype, "asked for"))
        return _DTYPES[spec.dtype]
    stated = stored or _DTYPES.get(facts.dtype)
    if stated is None:
        choices.append(Choice("dtype", "bfloat16", f"config.json says {facts.dtype!r}, which is not a dtype to compute in"))
        return torch.bfloat16
    chosen, reason = platform.compute_dtype(stated)
    if stored is not None and chosen == stored:
        reason = "config.json names none, and the weights are stored so"
    choices.append(Choice("dtype", str(chosen).removeprefix("torch."), reason))
    return chosen


def _stored_dtype(checkpoint: Checkpoint | DummyCheckpoint) -> torch.dtype | None:
    """Where config.json names no dtype (gpt-oss): that of most of the weights which are stored in one to compute in."""
    text = checkpoint.config.get("text_config")
    for config in (checkpoint.config, text if isinstance(text, dict) else {}):
        if config.get("dtype") or config.get("torch_dtype"):
            return None
    sizes: dict[torch.dtype, int] = {}
    for info in checkpoint.names.values():
        dtype = TORCH_DTYPES[info.dtype]
        if dtype in _DTYPES.values():
            sizes[dtype] = sizes.get(dtype, 0) + info.nbytes
    if isinstance(checkpoint, DummyCheckpoint):
        return torch.bfloat16
    return max(sizes, key=sizes.__getitem__, default=None)


def _open(spec: EngineSpec) -> Checkpoint | DummyCheckpoint:
    if spec.load_format == "dummy":
        return DummyCheckpoint.open(Path(spec.checkpoint))
    if spec.load_format != "auto":
        raise SettingsError(f"--load-format {spec.load_format!r} is not known; use auto or dummy")
    return Checkpoint.open(Path(spec.checkpoint))


def _kv_dtype(spec: EngineSpec, dtype: torch.dtype, choices: list[Choice]) -> torch.dtype:
    if spec.kv_cache_dtype not in _KV_DTYPES:
        raise SettingsError(f"--kv-cache-dtype {spec.kv_cache_dtype!r} is not known; use {', '.join(_KV_DTYPES)}")
    chosen = _KV_DTYPES[spec.kv_cache_dtype]
    if chosen is None:
        return dtype
    choices.append(Choice("kv cache dtype", str(chosen).removeprefix("torch."), "asked for"))
    return chosen


def _cache_scales(source: Source, build: Build, choices: list[Choice]) -> dict[int, tuple[float, float]]:
    """By layer, what an 8-bit cache's numbers are multiplied with."""
    if build.kv_dtype != torch.float8_e4m3fn:
        skip_cache_scales(source)
        return {}
    scales = read_cache_scales(source)
    where = f"{len(scales)} layers as the checkpoint says, the others 1" if scales else "1: the checkpoint says nothing"
    choices.append(Choice("kv cache scales", where, "numbers up to 448 are stored"))
    return scales


def _offload(
    spec: EngineSpec, checkpoint: Checkpoint | DummyCheckpoint, device: torch.device, free: int, choices: list[Choice]
) -> bool:
    """Whether tables that are only looked up stay in host memory."""
    if spec.ple_offload not in ("auto", "on", "off"):
        raise SettingsError(f"--ple-offload {spec.ple_offload!r} is not known; use auto, on or off")
    tables = sum(info.nbytes for name, info in checkpoint.names.items() if name.endswith("embed_tokens_per_layer.weight"))
    if device.type == "cpu" or (spec.ple_offload == "auto" and not tables):
        return False
    if spec.ple_offload != "auto":
        choices.append(Choice("per-layer embeddings", "host" if spec.ple_offload == "on" else "card", "asked for"))
        return spec.ple_offload == "on"
    rest = checkpoint.total_bytes - tables
    if spec.quantization == "fp8":  # most of the rest becomes half as large
        rest = round(0.6 * rest)
    tight = free < rest + tables + max(2 * GIB, rest // 4)
    why = f"the card has {free / GIB:.1f} GiB free, the model takes {rest / GIB:.1f} GiB and these tables {tables / GIB:.1f} GiB"
    choices.append(Choice("per-layer embeddings", "host" if tight else "card", why))
    return tight


def _few_rows(dtype: torch.dtype, device: torch.device) -> Choice:
    """What multiplies a few rows with a matrix."""
    if kernels_reason_not(device) is None:
        return Choice("linear maps of few rows", "Triton kernels", "they read weights at nearly memory bandwidth")
    reason = cpu_linear.reason_not(torch.empty((64, 64), dtype=dtype, device=device))
    few_rows = "torch" if reason else "kernels compiled for this CPU"
    return Choice("linear maps of few rows", few_rows, reason or "they read weights at nearly memory bandwidth")
