"""What an engine may hold: rows, step budget, window and KV pages, fitted to the memory that there is.

Every number is asked for or derived here, with its reason. Knows no model; activations are measured by who calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from tokenwell.engine.models.config import ModelFacts
from tokenwell.engine.platform.base import Platform
from tokenwell.engine.run.graphs import sizes_up_to
from tokenwell.wire.cache import KvGroup, longest_sequence, sequence_pages
from tokenwell.wire.errors import CapacityError, SettingsError
from tokenwell.wire.messages import Choice
from tokenwell.wire.spec import EngineSpec

GIB = 1 << 30

UTILISATION = 0.92  # of the memory that was free at the start; the rest is for fragments and what libraries take later
_SMALL_STEP = 2048  # tokens; prefill in smaller steps would lose speed
_STEP_SHARE = 8  # a step's tokens in sliding layers may take one part in so many of the pool
_RECORDING_BYTES = 24 << 20  # of the driver, for one recorded step


@dataclass(frozen=True)
class Limits:
    """What the scheduler must keep to."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_pages: int


@dataclass(frozen=True)
class Wanted:
    """The limits before memory is looked at."""

    window: int
    window_reason: str
    seqs: int
    budget: int


# (rows, tokens a step, window) -> bytes of the largest step. Raises torch.OutOfMemoryError.
Measure = Callable[[int, int, int], int]


def wanted(spec: EngineSpec, facts: ModelFacts, platform: Platform) -> Wanted:
    """Rows, budget and window as asked for or by the device's defaults."""
    seqs = spec.max_num_seqs or platform.default_num_seqs
    # A step has room for at least one token of every running sequence.
    budget = spec.max_num_batched_tokens or max(platform.default_batched_tokens, seqs)
    if spec.max_model_len and spec.max_model_len > facts.window:
        raise SettingsError(
            f"--max-model-len {spec.max_model_len} is longer than the {facts.window} tokens that the model knows; use less"
        )
    if spec.max_model_len:
        return Wanted(spec.max_model_len, "asked for", seqs, budget)
    return Wanted(facts.window, "the model's whole window", seqs, budget)


@dataclass(frozen=True)
class Space:
    """Bytes for the KV cache, and how they came about."""

    kv_bytes: int
    reason: str
    budget: int  # tokens a step that there is room for


def space_on_host(spec: EngineSpec, want: Wanted, platform: Platform, needed: int) -> Space:
    """A share of what the host has free, or what was asked for."""
    if spec.kv_cache_gib is not None:
        return Space(int(spec.kv_cache_gib * GIB), "asked for", want.budget)
    size, reason = platform.kv_bytes(needed)
    return Space(size, reason, want.budget)


def space_on_card(
    spec: EngineSpec, want: Wanted, facts: ModelFacts, platform: Platform, free_at_start: int, needed: int,
    measure: Measure, choices: list[Choice],
) -> Space:  # fmt: skip
    """What a card has left once weights, the largest step and recorded steps are accounted for. Raises CapacityError."""
    if spec.kv_cache_gib is not None:
        return Space(int(spec.kv_cache_gib * GIB), "asked for", want.budget)
    share = spec.gpu_memory_utilization or UTILISATION
    if not 0 < share <= 1:
        raise SettingsError(f"--gpu-memory-utilization {share} must be above 0 and at most 1")
    budget, peak = _measured(spec, want, measure, choices)
    graphs = graph_bytes(want.seqs, facts.vocabulary) if spec.graphs else 0
    free = platform.free_bytes()
    usable = int(share * free_at_start) - (free_at_start - free)
    left = usable - peak - graphs
    told = (
        f"{share:.0%} of the {_gib(free_at_start)} that were free, less {_gib(free_at_start - free)} of weights, "
        f"{_gib(peak)} for a step of {budget} tokens and {want.seqs} rows (measured), {_gib(graphs)} for recorded steps"
    )
    if left <= 0:
        raise CapacityError(
            f"no memory is left for the KV cache: {told}. Raise --gpu-memory-utilization, lower --max-num-batched-tokens or "
            "--max-num-seqs, use --quantization fp8, or free memory on the card"
        )
    if needed <= left:
        return Space(needed, f"every slot can reach the full window; {_gib(left)} would be there: {told}", budget)
    return Space(left, told, budget)


def _measured(spec: EngineSpec, want: Wanted, measure: Measure, choices: list[Choice]) -> tuple[int, int]:
    """The step budget that memory allows and the bytes of the largest step with it."""
    budget = want.budget
    while True:
        try:
            peak = measure(want.seqs, budget, want.window)
            break
        except torch.OutOfMemoryError:
            if spec.max_num_batched_tokens or budget // 2 < max(want.seqs, 256):
                raise CapacityError(
                    f"a step of {budget} tokens and {want.seqs} rows does not fit beside the weights: lower "
                    "--max-num-batched-tokens or --max-num-seqs, use --quantization fp8, or free memory on the card"
                ) from None
            budget //= 2
    if budget != want.budget:
        choices.append(Choice("max_num_batched_tokens", str(budget), f"steps of {want.budget} do not fit beside the weights"))
    return budget, peak


def graph_bytes(seqs: int, vocabulary: int) -> int:
    """What recorded decode steps take at most: each keeps its logits, and they share one step's activations."""
    sizes = sizes_up_to(seqs)
    return 4 * vocabulary * (sum(sizes) + seqs) + _RECORDING_BYTES * len(sizes)


def step_for_pool(spec: EngineSpec, space: Space, groups: Sequence[KvGroup], page_bytes: int, choices: list[Choice]) -> Space:
    """Smaller steps where those of the budget would hold a large part of the pool: sliding layers keep a whole step's tokens."""
    groups, budget = tuple(groups), space.budget
    pages = space.kv_bytes // page_bytes

    def extra(step: int) -> int:
        return sequence_pages(1 << 20, step, groups) - sequence_pages(1 << 20, 1, groups)

    while spec.max_num_batched_tokens is None and budget >= 2 * _SMALL_STEP and extra(budget) > pages // _STEP_SHARE:
        budget //= 2
    if budget == space.budget:
        return space
    held = _gib((extra(space.budget) - extra(budget)) * page_bytes)
    why = f"in steps of {space.budget} sliding windows would hold {held} of the KV cache more"
    choices.append(Choice("max_num_batched_tokens", str(budget), why))
    return replace(space, budget=budget)


def fitted(want: Wanted, space: Space, groups: Sequence[KvGroup], page_bytes: int, asked: bool, choices: list[Choice]) -> Limits:
    """The limits within `space`: the window is cut to what fits. Raises CapacityError if not even one token does."""
    groups = tuple(groups)
    pages = space.kv_bytes // page_bytes
    one = sequence_pages(want.window, space.budget, groups)
    window = longest_sequence(pages, space.budget, want.window, groups)
    if window < 1:
        need = (sequence_pages(1, space.budget, groups) + 1) * page_bytes
        raise CapacityError(
            f"the KV cache of {space.kv_bytes} bytes holds not even one token: pages are {page_bytes} bytes and {need} bytes are "
            "needed; free memory, raise --kv-cache-gib or lower --page-tokens"
        )
    if window < want.window:
        if asked:
            why = f"{_gib((one + 1) * page_bytes)} of KV cache would be needed for the {want.window} asked for"
        else:
            why = f"the model knows {want.window} tokens, but {_gib(space.kv_bytes)} of KV cache hold no more for one sequence"
        choices.append(Choice("max_model_len", str(window), why))
    else:
        choices.append(Choice("max_model_len", str(window), want.window_reason))
    choices.append(Choice("kv cache", f"{pages} pages, {_gib(space.kv_bytes)}", space.reason))
    return Limits(window, want.seqs, space.budget, pages)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
