"""The plan: what a model will take and do on some cards, with everything that was cut and why. `serve` keeps to it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tokenwell.plan.card import ModelCard
from tokenwell.plan.gpus import Gpu
from tokenwell.plan.layout import Candidate, Decision, choose, describe
from tokenwell.plan.link import Layout
from tokenwell.plan.machine import MachineCards
from tokenwell.plan.room import Room
from tokenwell.plan.speed import Speed, Term, predict
from tokenwell.plan.vllm import VllmPlan, explain_printed, vllm_plan
from tokenwell.wire.errors import CapacityError, SettingsError

GIB = 1 << 30
_PLATFORMS = {"nvidia": "cuda", "intel": "xpu", "amd": "rocm"}


@dataclass(frozen=True)
class Wishes:
    """What was asked for; None: whatever fits."""

    engine: str = "native"
    goal: str = "agents"
    quantization: str = "auto"
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    page_tokens: int = 16
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    kv_gib: float | None = None
    tp: int | None = None
    replicas: int | None = None
    ple_offload: str = "auto"
    graphs: bool = True
    printed: tuple[int, float] | None = None  # vLLM's lines: tokens of the KV cache and concurrency, to be explained
    batch: int = 1  # rows, prompt and context that the speeds are told for
    prompt_tokens: int = 1024
    context_tokens: int | None = None  # None: the prompt


@dataclass(frozen=True)
class LayoutPlan:
    """Which cards do what."""

    kind: str  # "single" | "replicas" | "layers" | "tensor"
    gpus: tuple[str, ...]
    tp: int
    replicas: int
    offload: str  # "none" | "lookup" | "experts"
    words: str


@dataclass(frozen=True)
class KvPlan:
    """The KV cache of one rank; of a vLLM plan without a printed memory the middle of the ranges."""

    available_gib: float
    planned_bytes: int
    page_bytes: int
    num_blocks: int
    tokens: int  # in sequences of the window; vLLM's own figure for vLLM
    max_concurrency: float  # sequences of the window at once
    num_blocks_range: tuple[int, int] | None = None


@dataclass(frozen=True)
class SpeedPlan:
    """Predicted times, and of what."""

    ttft_ms: float
    tpot_ms: float
    prefill_tokens_s: float
    decode_tokens_s: float
    batch: int
    prompt_tokens: int
    context_tokens: int


@dataclass(frozen=True)
class Alternative:
    """A layout that was compared; its speeds are those of the goal's work."""

    layout: str
    fits: bool
    runs: bool
    window: int
    ttft_ms: float | None
    tpot_ms: float | None
    turn_ms: float | None  # of a session, others beside it
    tokens_s: float | None
    why: str


@dataclass(frozen=True)
class Plan:
    """Sizes are of one rank. GiB are 2**30 bytes."""

    model: str
    architecture: str
    engine: str
    goal: str
    layout: LayoutPlan
    quantization: str
    kv_cache_dtype: str
    weights_gib: float
    host_gib: float
    memory_gib: Mapping[str, float]  # where a card's memory goes
    kv: KvPlan
    max_model_len: int
    max_num_seqs: int | None  # None: vLLM's default
    max_num_batched_tokens: int
    speed: SpeedPlan
    alternatives: tuple[Alternative, ...]  # the chosen one first
    cuts: tuple[str, ...]
    reasons: tuple[str, ...]
    terms: tuple[Term, ...] = field(default=(), repr=False)  # of the speeds, with formulas
    weights_bytes: int = 0


@dataclass(frozen=True)
class Forecast:
    """The formulas behind a plan's speeds, for other prompts and batches."""

    card: ModelCard
    layout: Layout
    machine: MachineCards
    quantization: str
    kv_dtype: str
    engine: str
    graphs: bool

    def speed(self, batch: int, context_tokens: int, prompt_tokens: int) -> Speed:
        """Times with `batch` rows of `context_tokens`, and of a prompt."""
        return predict(
            self.card, self.layout, batch, context_tokens, prompt_tokens, self.quantization, self.kv_dtype, self.engine,
            self.graphs, self.machine.link,
        )  # fmt: skip

    def ttft_ms(self, prompt_tokens: int) -> float:
        """Until the first token of a prompt of which so many tokens must be computed, on an idle engine."""
        return self.speed(1, prompt_tokens, prompt_tokens).ttft_ms

    def tpot_ms(self, rows: int, context_tokens: int) -> float:
        """A token's time with `rows` sequences of `context_tokens` at once."""
        return self.speed(rows, context_tokens, 1).tpot_ms


def make_plan(model: str, card: ModelCard, machine: MachineCards, wishes: Wishes) -> tuple[Plan, Forecast]:
    """The plan for `card` on the machine's cards.

    What cannot be had is cut and told in `cuts`. Raises CapacityError, with the nearest plan that works, where cutting does
    not help, and SettingsError for words that are not known.
    """
    if wishes.engine.startswith("vllm"):
        return _of_vllm(model, card, machine, wishes)
    cuts: list[str] = []
    wishes = _within(machine, wishes, cuts)
    decision = _decide(card, machine, wishes)
    if decision.best is None and (settings := _settable(decision)):
        why = _first(decision.reasons)
        cuts += [f"{name}: {value}, because otherwise {why[0].lower()}{why[1:]}" for name, value in settings.items()]
        wishes = _with(wishes, settings)
        decision = _decide(card, machine, wishes)
    if decision.best is None or decision.best.room is None:
        raise CapacityError(" ".join(decision.reasons))
    best, room = decision.best, decision.best.room
    if wishes.max_model_len and room.window < wishes.max_model_len:
        cuts.append(f"max_model_len: {room.window} instead of {wishes.max_model_len}: {room.reason}")
    if wishes.max_num_batched_tokens and room.step_tokens < wishes.max_num_batched_tokens:
        cuts.append(f"max_num_batched_tokens: {room.step_tokens} instead of {wishes.max_num_batched_tokens}")
    if wishes.kv_gib is not None and room.kv < int(wishes.kv_gib * GIB):
        cuts.append(f"kv_cache_gib: {room.kv / GIB:.2f} instead of {wishes.kv_gib:g}: {room.reason}")
    computed = card if wishes.dtype == "auto" else replace(card, dtype=wishes.dtype)
    forecast = Forecast(
        computed, best.layout, machine, best.quantization, wishes.kv_cache_dtype, wishes.engine, wishes.graphs
    )  # fmt: skip
    speed, speed_plan = _speed(forecast, wishes, room.window)
    plan = Plan(
        model=model, architecture=card.architecture, engine=wishes.engine, goal=decision.goal.name,
        layout=_layout(best.layout), quantization=best.quantization, kv_cache_dtype=wishes.kv_cache_dtype,
        weights_gib=room.weights / GIB, host_gib=room.host / GIB, memory_gib=_memory(best, room),
        kv=KvPlan(
            room.left / GIB, room.kv, room.page_bytes, room.num_pages, int(room.sequences(room.window) * room.window),
            room.sequences(room.window),
        ),
        max_model_len=room.window, max_num_seqs=room.seqs, max_num_batched_tokens=room.step_tokens,
        speed=speed_plan, alternatives=tuple(map(_alternative, (best, *decision.runners_up, *decision.refused))),
        cuts=tuple(cuts), reasons=(*machine.notes, *decision.reasons), terms=speed.terms, weights_bytes=room.weights,
    )  # fmt: skip
    return plan, forecast


def _settable(decision: Decision) -> Mapping[str, str] | None:
    """The smallest change that a service can make by itself: not another card, and no format that it cannot convert to."""
    return next(
        (
            change.settings
            for change in decision.changes
            if not any(name.startswith("card") for name in change.settings)
            and change.settings.get("quantization") in (None, "fp8")
        ),
        None,
    )


def _with(wishes: Wishes, settings: Mapping[str, str]) -> Wishes:
    rows = settings.get("max_num_seqs")
    return replace(
        wishes, max_num_seqs=wishes.max_num_seqs if rows is None else int(rows),
        kv_cache_dtype=settings.get("kv_cache_dtype", wishes.kv_cache_dtype),
        quantization=settings.get("quantization", wishes.quantization),
    )  # fmt: skip


def _within(machine: MachineCards, wishes: Wishes, cuts: list[str]) -> Wishes:
    """No more cards than there are."""
    there = len(machine.gpus)
    tp = wishes.tp
    if tp is not None and tp > there:
        cuts.append(f"tp: {there} instead of {tp}: there are no more cards")
        tp = there
    replicas = wishes.replicas
    most = there // (tp or 1)
    if replicas is not None and replicas > most:
        cuts.append(f"replicas: {most} instead of {replicas}: there are {there} cards")
        replicas = most
    return replace(wishes, tp=tp, replicas=replicas)


def _decide(card: ModelCard, machine: MachineCards, wishes: Wishes) -> Decision:
    return choose(
        card, machine.gpus, machine.link, wishes.goal, quantization=wishes.quantization, kv_dtype=wishes.kv_cache_dtype,
        window=wishes.max_model_len, rows=wishes.max_num_seqs, step_tokens=wishes.max_num_batched_tokens,
        utilisation=wishes.gpu_memory_utilization, tp=wishes.tp, replicas=wishes.replicas, kv_gib=wishes.kv_gib,
        ple_offload=wishes.ple_offload, host_gib=machine.host_free_gib, engine=wishes.engine, graphs=wishes.graphs,
        dtype=wishes.dtype, page_tokens=wishes.page_tokens,
    )  # fmt: skip


def _speed(forecast: Forecast, wishes: Wishes, window: int) -> tuple[Speed, SpeedPlan]:
    prompt = min(wishes.prompt_tokens, window)
    context = min(wishes.context_tokens or prompt, window)
    speed = forecast.speed(wishes.batch, context, prompt)
    told = SpeedPlan(
        speed.ttft_ms, speed.tpot_ms, speed.prefill_tokens_s, speed.decode_tokens_s, wishes.batch, prompt, context
    )  # fmt: skip
    return speed, told


def _layout(layout: Layout) -> LayoutPlan:
    names = tuple(gpu.name for gpu in layout.gpus)
    return LayoutPlan(layout.kind, names, layout.tp, layout.replicas, layout.offload, describe(layout))


def _memory(best: Candidate, room: Room) -> dict[str, float]:
    """The parts of one card's memory, in GiB."""
    card = min(best.layout.cards, key=lambda gpu: gpu.memory_gib)
    parts = {
        "weights": room.weights / GIB, "kv cache": room.kv / GIB, "largest step": room.activations / GIB,
        "recorded steps": room.graphs / GIB, "driver": room.context / GIB,
    }  # fmt: skip
    return {**parts, "left": max(0.0, card.memory_gib - sum(parts.values())), "card": card.memory_gib}


def _alternative(candidate: Candidate) -> Alternative:
    speed = candidate.speed
    return Alternative(
        candidate.name, candidate.fits, candidate.runs, 0 if candidate.room is None else candidate.room.window,
        None if speed is None else speed.ttft_ms, None if speed is None else speed.tpot_ms,
        candidate.turn_ms if candidate.fits else None, candidate.tokens_s if candidate.fits else None, candidate.reason,
    )  # fmt: skip


def _first(reasons: tuple[str, ...]) -> str:
    return reasons[0].rstrip(".") if reasons else "nothing fits"


# ---------------------------------------------------------------- vLLM


def _of_vllm(model: str, card: ModelCard, machine: MachineCards, wishes: Wishes) -> tuple[Plan, Forecast]:
    """vLLM's own figures, with as few cards as its window needs."""
    cuts: list[str] = []
    wishes = _within(machine, wishes, cuts)
    gpu = machine.gpus[0]
    tp, found = wishes.tp or 1, _vllm(card, gpu, wishes, wishes.tp or 1)
    for more in () if wishes.tp else (2, 4, 8):
        if found.fits or more > len(machine.gpus):
            break
        with suppress(SettingsError):  # heads that so many cards cannot share
            tp, found = more, _vllm(card, gpu, wishes, more)
    layout = Layout("tensor", machine.gpus[:tp], tp) if tp > 1 else Layout("single", (gpu,))
    quantization = wishes.quantization
    forecast = Forecast(card, layout, machine, quantization, wishes.kv_cache_dtype, wishes.engine, wishes.graphs)
    speed, speed_plan = _speed(forecast, wishes, found.max_model_len)
    notes = found.notes if wishes.printed is None else (*found.notes, explain_printed(found, *wishes.printed))
    blocks, tokens, concurrency = found.likely
    available = sum(found.available_gib) / 2
    plan = Plan(
        model=model, architecture=card.architecture, engine=wishes.engine, goal=wishes.goal, layout=_layout(layout),
        quantization=quantization, kv_cache_dtype=wishes.kv_cache_dtype, weights_gib=found.weights_gib, host_gib=0.0,
        memory_gib={"weights": found.weights_gib, "kv cache": available, "card": gpu.memory_gib},
        kv=KvPlan(available, int(available * GIB), found.cache.block_bytes, blocks, tokens, concurrency, found.num_blocks),
        max_model_len=found.max_model_len, max_num_seqs=wishes.max_num_seqs,
        max_num_batched_tokens=found.max_num_batched_tokens, speed=speed_plan, alternatives=(), cuts=tuple(cuts),
        reasons=notes, terms=speed.terms, weights_bytes=int(found.weights_gib * GIB),
    )  # fmt: skip
    return plan, forecast


def _vllm(card: ModelCard, gpu: Gpu, wishes: Wishes, tp: int) -> VllmPlan:
    return vllm_plan(
        card, version=wishes.engine.partition("==")[2] or "0.19", tp=tp,
        quantization=None if wishes.quantization == "auto" else wishes.quantization, kv_cache_dtype=wishes.kv_cache_dtype,
        max_model_len=wishes.max_model_len, max_num_batched_tokens=wishes.max_num_batched_tokens,
        max_num_seqs=wishes.max_num_seqs, gpu_memory_utilization=wishes.gpu_memory_utilization or 0.9,
        total_gib=gpu.memory_gib, platform=_PLATFORMS.get(gpu.vendor, gpu.vendor), capability=gpu.capability or 8.0,
        device_name=gpu.name, available_kv_gib=wishes.kv_gib,
    )  # fmt: skip
