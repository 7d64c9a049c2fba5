"""What an engine may hold: rows, step budget, window and KV pages, fitted to the memory that there is.

Pure arithmetic, the same for the engine, which measures what its largest step takes, and for the planner, which predicts it.
Every number is asked for or derived here, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tokenwell.wire.cache import KvGroup, longest_sequence, sequence_pages
from tokenwell.wire.errors import CapacityError, SettingsError
from tokenwell.wire.messages import Choice
from tokenwell.wire.spec import EngineSpec

GIB = 1 << 30

UTILISATION = 0.92  # of the memory that was free at the start; the rest is for fragments and what libraries take later
_SMALL_STEP = 2048  # tokens; prefill in smaller steps would lose speed
_STEP_SHARE = 8  # a step's tokens in sliding layers may take one part in so many of the pool
_LONG_SHARE = 32  # a longer step may cost the cache one part in so many
RECORDING_BYTES = 24 << 20  # of the driver, for one recorded step
RECORDED_TOKENS = 2304  # of a recorded step at most


@dataclass(frozen=True)
class Defaults:
    """What a kind of device does when nothing is asked for."""

    rows: int
    step_tokens: int
    host_share: float | None = None  # of the memory that is free, where the device's memory is the host's; None: it is not
    long: int = 1  # how many times as many tokens a step takes where that pays and no row decodes


# The CPU's steps: as fast as longer ones, and running streams stutter less. Its memory has other tenants: the page cache, the
# gateway, the user's programs.
DEFAULTS: dict[str, Defaults] = {
    "cuda": Defaults(256, 8192, long=2),  # gpt-oss-20b on an H200, 32,768 tokens: 56,500 a second instead of 51,900
    "rocm": Defaults(256, 8192),
    "xpu": Defaults(64, 2048),
    "cpu": Defaults(64, 256, host_share=0.4),
}


@dataclass(frozen=True)
class Limits:
    """What the scheduler must keep to."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    num_pages: int
    max_num_mixed_tokens: int  # of a step in which rows decode
    step_bytes: int = 0  # of the largest step, which takes them whenever it comes


@dataclass(frozen=True)
class Wanted:
    """The limits before memory is looked at."""

    window: int
    window_reason: str
    seqs: int
    budget: int
    long: int = 1  # how many times as many tokens a step takes while no row decodes, if there is room


@dataclass(frozen=True)
class Step:
    """The largest step."""

    budget: int  # tokens that there is room for
    peak_bytes: int
    told: str  # "measured" | "predicted"


@dataclass(frozen=True)
class Space:
    """Bytes for the KV cache, and how they came about."""

    kv_bytes: int
    reason: str
    budget: int  # tokens a step that there is room for
    left: int  # bytes that the cache might have had
    step_bytes: int = 0  # of the largest step


# (rows, tokens a step, window) -> bytes of the largest step; None: it does not fit.
Measure = Callable[[int, int, int], int | None]


def wanted(spec: EngineSpec, known: int, defaults: Defaults, writes_out: bool = False) -> Wanted:
    """Rows, budget and window as asked for or by the device's defaults; `known`: tokens that the model knows.

    `writes_out`: every step of many tokens writes packed weights out first, which pays the more the longer the step is.
    """
    seqs = spec.max_num_seqs or defaults.rows
    long = defaults.long if writes_out and spec.max_num_batched_tokens is None else 1
    # A step has room for at least one token of every running sequence.
    budget = spec.max_num_batched_tokens or max(defaults.step_tokens, seqs)
    if spec.max_model_len and spec.max_model_len > known:
        raise SettingsError(
            f"--max-model-len {spec.max_model_len} is longer than the {known} tokens that the model knows; use less"
        )
    if spec.max_model_len:
        return Wanted(spec.max_model_len, "asked for", seqs, budget, long)
    return Wanted(known, "the model's whole window", seqs, budget, long)


def full_bytes(want: Wanted, groups: Sequence[KvGroup], page_bytes: int) -> int:
    """Bytes of a KV cache in which every slot can reach the full window."""
    return (want.seqs * sequence_pages(want.window, want.budget, tuple(groups)) + 1) * page_bytes


def space_on_host(
    spec: EngineSpec, want: Wanted, free: int, share: float, needed: int, choices: list[Choice], sharers: int = 1
) -> Space:
    """A share of what the host has free, which `sharers` processes take alike; all of it where that is asked for."""
    if spec.kv_cache_gib is not None:
        return _given(spec, free, f"{free / GIB:.1f} GiB are free", want.budget, needed, "", choices)
    left = int(free * share / sharers)
    shared = f", shared by {sharers} processes" if sharers > 1 else ""
    told = f"{share:.0%} of the {free / GIB:.1f} GiB that are free{shared}"
    return _given(spec, left, told, want.budget, needed, "every slot can reach the full window", choices)


def largest_step(
    spec: EngineSpec, want: Wanted, measure: Measure, choices: list[Choice], told: str = "measured"
) -> Step:  # fmt: skip
    """The step that memory allows: half as many tokens until it fits. Raises CapacityError if that is too few."""
    budget = want.budget
    while (peak := measure(want.seqs, budget, want.window)) is None:
        if spec.max_num_batched_tokens or budget // 2 < max(want.seqs, 256):
            raise CapacityError(
                f"a step of {budget} tokens and {want.seqs} rows does not fit beside the weights: lower "
                "--max-num-batched-tokens or --max-num-seqs, use --quantization fp8, or free memory on the card"
            )
        budget //= 2
    if budget != want.budget:
        choices.append(Choice("max_num_batched_tokens", str(budget), f"steps of {want.budget} do not fit beside the weights"))
    return Step(budget, peak, told)


def space_beside_steps(
    spec: EngineSpec, want: Wanted, measure: Measure, vocabulary: int, free_at_start: int, free: Callable[[], int], needed: int,
    groups: Sequence[KvGroup], page_bytes: int, choices: list[Choice], told: str = "measured",
) -> Space:  # fmt: skip
    """What a card has left for the cache beside the longest steps that cost it next to nothing. Raises CapacityError.

    `free` tells what is free once the model is loaded and a measured step's memory is given back.
    """
    budget = want.budget * want.long
    if want.long > 1 and (peak := measure(want.seqs, budget, want.window)) is not None:
        cut: list[Choice] = []
        try:
            space = space_on_card(spec, want, Step(budget, peak, told), vocabulary, free_at_start, free(), needed, cut)
        except CapacityError:
            space = Space(0, "", budget, 0)
        # What the step takes more than a usual one is lost to a cache that gets all there is.
        cost = 0 if space.kv_bytes < space.left else peak - peak // want.long
        if not cut and cost <= space.left // _LONG_SHARE and _holds(space, groups, page_bytes):
            why = f"while no row decodes, else {want.budget}: every long step writes packed weights out first"
            choices.append(Choice("max_num_batched_tokens", str(budget), why))
            return space
    step = largest_step(spec, want, measure, choices, told)
    space = space_on_card(spec, want, step, vocabulary, free_at_start, free(), needed, choices)
    return step_for_pool(spec, space, groups, page_bytes, choices)


def space_on_card(
    spec: EngineSpec, want: Wanted, step: Step, vocabulary: int, free_at_start: int, free: int, needed: int,
    choices: list[Choice],
) -> Space:  # fmt: skip
    """What a card has left once weights, the largest step and recorded steps are accounted for. Raises CapacityError.

    `free` is what is free once the model is loaded, the largest step's memory given back.
    """
    share = spec.gpu_memory_utilization or UTILISATION
    if not 0 < share <= 1:
        raise SettingsError(f"--gpu-memory-utilization {share} must be above 0 and at most 1")
    graphs = graph_bytes(want.seqs, vocabulary) if spec.graphs else 0
    usable = int(share * free_at_start) - (free_at_start - free)
    left = usable - step.peak_bytes - graphs
    told = (
        f"{share:.0%} of the {_gib(free_at_start)} that were free, less {_gib(free_at_start - free)} of weights, "
        f"{_gib(step.peak_bytes)} for a step of {step.budget} tokens and {want.seqs} rows ({step.told}), {_gib(graphs)} for "
        "recorded steps"
    )
    if left <= 0:
        raise CapacityError(
            f"no memory is left for the KV cache: {told}. Raise --gpu-memory-utilization, lower --max-num-batched-tokens or "
            "--max-num-seqs, use --quantization fp8, or free memory on the card"
        )
    enough = f"every slot can reach the full window; {_gib(left)} would be there: {told}"
    return replace(_given(spec, left, told, step.budget, needed, enough, choices), step_bytes=step.peak_bytes)


def _given(spec: EngineSpec, left: int, told: str, budget: int, needed: int, enough: str, choices: list[Choice]) -> Space:
    """What was asked for or planned, cut aloud to what is left; without a wish what is left, and no more than is needed."""
    wish, why, who = spec.kv_plan_bytes, "as planned", "the plan gave it"
    if spec.kv_cache_gib is not None:
        wish, why, who = int(spec.kv_cache_gib * GIB), "asked for", "--kv-cache-gib asks for"
    if wish is None:
        return Space(needed, enough, budget, left) if needed <= left else Space(left, told, budget, left)
    if wish <= left:
        return Space(wish, f"{why}; {_gib(left)} would be there: {told}", budget, left)
    choices.append(Choice("kv cache cut", _gib(left), f"{who} {_gib(wish)}, which is not there: {told}"))
    return Space(left, told, budget, left)


def sizes_up_to(most: int) -> tuple[int, ...]:
    """The batch sizes that are recorded: small ones exactly, larger ones so that at most a third of a batch is padding."""
    sizes = [size for power in range(most.bit_length() + 1) for size in (1 << power, 3 << power >> 1) if size < most]
    return tuple(sorted({1, most, *sizes}))


def graph_bytes(seqs: int, vocabulary: int) -> int:
    """What recorded decode steps take at most: each keeps its logits, and they share one step's activations."""
    return recorded_bytes(sizes_up_to(seqs), vocabulary) + 4 * vocabulary * seqs


def recorded_bytes(sizes: Sequence[int], vocabulary: int) -> int:
    """What recorded decode steps of such sizes keep at most."""
    return 4 * vocabulary * sum(sizes) + RECORDING_BYTES * len(sizes)


def step_for_pool(spec: EngineSpec, space: Space, groups: Sequence[KvGroup], page_bytes: int, choices: list[Choice]) -> Space:
    """Smaller steps where those of the budget would hold a large part of the pool: sliding layers keep a whole step's tokens."""
    groups, budget = tuple(groups), space.budget
    while spec.max_num_batched_tokens is None and budget >= 2 * _SMALL_STEP and not _holds(space, groups, page_bytes, budget):
        budget //= 2
    if budget == space.budget:
        return space
    held = _gib((_step_pages(space.budget, groups) - _step_pages(budget, groups)) * page_bytes)
    why = f"in steps of {space.budget} sliding windows would hold {held} of the KV cache more"
    choices.append(Choice("max_num_batched_tokens", str(budget), why))
    return replace(space, budget=budget)


def _holds(space: Space, groups: Sequence[KvGroup], page_bytes: int, budget: int = 0) -> bool:
    """Whether the tokens of one step (0: of the space's) in sliding layers leave most of the pool to others."""
    return _step_pages(budget or space.budget, groups) <= space.kv_bytes // page_bytes // _STEP_SHARE


def _step_pages(budget: int, groups: Sequence[KvGroup]) -> int:
    """Pages that sliding layers hold more while a step of so many tokens runs."""
    return sequence_pages(1 << 20, budget, tuple(groups)) - sequence_pages(1 << 20, 1, tuple(groups))


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
    return Limits(window, want.seqs, space.budget, pages, min(want.budget, space.budget), space.step_bytes)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
