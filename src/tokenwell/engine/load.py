"""From an EngineSpec to a model that can run: device, weights, KV cache, limits. Every automatic choice is recorded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tokenwell.engine.kernels import cpu_linear
from tokenwell.engine.models import registry
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ModelFacts, Raw
from tokenwell.engine.platform.base import Platform
from tokenwell.engine.platform.choose import open_platform
from tokenwell.engine.run.grammar import Grammars
from tokenwell.engine.run.kv import KvPool
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.run.worker import Worker
from tokenwell.engine.schedule.scheduler import Scheduler
from tokenwell.engine.weights.checkpoint import Checkpoint
from tokenwell.engine.weights.source import Source
from tokenwell.wire.cache import KvGroup, longest_sequence, sequence_pages
from tokenwell.wire.errors import CapacityError, SettingsError
from tokenwell.wire.messages import Choice, Generate, Ready
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

GIB = 1 << 30
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Loaded:
    """A worker with the limits that it was built for."""

    worker: Worker
    ready: Ready
    notes: list[str]  # what was skipped in the checkpoint


@dataclass(frozen=True)
class Limits:
    """What the scheduler must keep to."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_pages: int


def load(spec: EngineSpec) -> Loaded:
    """Load the checkpoint of `spec`. Raises CheckpointError, SettingsError or CapacityError with what to do."""
    started = time.monotonic()
    platform, device_choice = open_platform(spec.device, spec.threads)
    choices = [device_choice]
    checkpoint = Checkpoint.open(Path(spec.checkpoint))
    if (threads := platform.suit(checkpoint.total_bytes)) is not None:
        choices.append(threads)
    raw = Raw(checkpoint.config)
    entry = registry.find(checkpoint.config)
    facts = entry.read(raw)
    dtype = _dtype(spec, facts, platform, choices)
    ranks = Ranks()
    source = Source(checkpoint, platform.device, dtype, ranks.rank, ranks.world)
    build = Build(source, facts, ranks, spec.page_tokens)
    with torch.inference_mode():
        before = time.monotonic()
        model = entry.build(build, raw)
        weights_seconds = time.monotonic() - before
    notes = [*source.finish(), f"Weights: {checkpoint.total_bytes / GIB:.2f} GiB read in {weights_seconds:.1f} s"]
    choices += build.choices
    reason = cpu_linear.reason_not(torch.empty((64, 64), dtype=dtype, device=platform.device))
    few_rows = "torch" if reason else "kernels compiled for this CPU"
    choices.append(Choice("linear maps of few rows", few_rows, reason or "they read weights at nearly memory bandwidth"))
    limits = _limits(spec, facts, platform, build.groups, build.page_bytes, choices)
    pool = KvPool(build.groups, build.page_bytes, limits.num_pages, dtype, platform.device)
    worker = Worker(
        model, build.groups, pool, platform.device, Grammars(checkpoint.folder, facts.vocabulary),
        max_num_seqs=limits.max_num_seqs, max_model_len=limits.max_model_len, graphs=spec.graphs,
    )  # fmt: skip
    ready = Ready(
        architecture=facts.architecture, device=platform.describe(), dtype=str(dtype).removeprefix("torch."),
        vocab_size=facts.vocabulary, max_model_len=limits.max_model_len, max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens, weights_bytes=checkpoint.total_bytes,
        page_bytes=build.page_bytes, num_pages=limits.num_pages, groups=build.groups,
        load_seconds=time.monotonic() - started, choices=choices,
    )  # fmt: skip
    return Loaded(worker, ready, notes)


def scheduler_for(ready: Ready, prefix_cache: bool) -> Scheduler:
    """A scheduler with the limits that the engine reports."""
    return Scheduler(
        ready.groups, ready.num_pages, ready.max_num_seqs, ready.max_num_batched_tokens, ready.max_model_len, prefix_cache
    )


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


def _dtype(spec: EngineSpec, facts: ModelFacts, platform: Platform, choices: list[Choice]) -> torch.dtype:
    if spec.dtype != "auto":
        if spec.dtype not in _DTYPES:
            raise SettingsError(f"--dtype {spec.dtype!r} is not known; use auto, {', '.join(_DTYPES)}")
        choices.append(Choice("dtype", spec.dtype, "asked for"))
        return _DTYPES[spec.dtype]
    stated = _DTYPES.get(facts.dtype)
    if stated is None:
        choices.append(Choice("dtype", "bfloat16", f"config.json says {facts.dtype!r}, which is not a dtype to compute in"))
        return torch.bfloat16
    chosen, reason = platform.compute_dtype(stated)
    choices.append(Choice("dtype", str(chosen).removeprefix("torch."), reason))
    return chosen


def _limits(
    spec: EngineSpec, facts: ModelFacts, platform: Platform, groups: tuple[KvGroup, ...], page_bytes: int, choices: list[Choice]
) -> Limits:
    """Window, slots, step budget and pages: what was asked for where it fits, otherwise cut, with the reason."""
    seqs = spec.max_num_seqs or platform.default_num_seqs
    # A step has room for at least one token of every running sequence.
    budget = spec.max_num_batched_tokens or max(platform.default_batched_tokens, seqs)
    window = spec.max_model_len or facts.window
    if spec.max_model_len and spec.max_model_len > facts.window:
        raise SettingsError(
            f"--max-model-len {spec.max_model_len} is longer than the {facts.window} tokens that the model knows; use less"
        )
    one = sequence_pages(window, budget, groups)
    if spec.kv_cache_gib is not None:
        size, reason = int(spec.kv_cache_gib * GIB), "asked for"
    else:
        size, reason = platform.kv_bytes((seqs * one + 1) * page_bytes)
    pages = size // page_bytes
    fitted = longest_sequence(pages, budget, window, groups)
    if fitted < 1:
        need = (sequence_pages(1, budget, groups) + 1) * page_bytes
        raise CapacityError(
            f"the KV cache of {size} bytes holds not even one token: pages are {page_bytes} bytes and {need} bytes are needed; "
            "free memory, raise --kv-cache-gib or lower --page-tokens"
        )
    if fitted < window:
        if spec.max_model_len:
            why = f"{(one + 1) * page_bytes / GIB:.2f} GiB of KV cache would be needed for the {window} asked for"
        else:
            why = f"the model knows {window} tokens, but the KV cache of {size / GIB:.2f} GiB holds no more for one sequence"
        choices.append(Choice("max_model_len", str(fitted), why))
    else:
        choices.append(Choice("max_model_len", str(window), "asked for" if spec.max_model_len else "the model's whole window"))
    choices.append(Choice("kv cache", f"{pages} pages, {size / GIB:.2f} GiB", reason))
    return Limits(fitted, seqs, budget, pages)
