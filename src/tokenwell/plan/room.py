"""What a layout has room for: weights, steps and KV cache of its tightest card, fitted by the engine's own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from tokenwell.plan.bytes import NativeBytes, native_bytes, weight_bytes
from tokenwell.plan.card import ModelCard
from tokenwell.plan.gpus import Gpu
from tokenwell.plan.held import item_bytes, writes_out
from tokenwell.plan.link import Layout
from tokenwell.plan.step import activation_bytes
from tokenwell.wire import capacity
from tokenwell.wire.cache import KvGroup, concurrency, longest_sequence, sequence_pages
from tokenwell.wire.errors import CapacityError, CheckpointError
from tokenwell.wire.messages import Choice
from tokenwell.wire.spec import EngineSpec

GIB = 1 << 30
_SPLIT_SHARE = 0.9  # of a card's memory that layers of a split may take; the rest is for the cache


@dataclass(frozen=True)
class Wish:
    """What is asked of the memory. None: the engine's default on that device."""

    quantization: str = "auto"
    kv_dtype: str = "auto"
    window: int | None = None
    rows: int | None = None
    step_tokens: int | None = None
    utilisation: float | None = None
    kv_gib: float | None = None  # for the cache; None: what is left
    page_tokens: int = 16
    graphs: bool = True
    host_gib: float | None = None  # free in the host's memory; None: not known, so nothing is refused for it


@dataclass(frozen=True)
class Room:
    """Of one replica; bytes are those of its tightest card."""

    weights: int
    kv: int  # bytes for pages; of a layer split, those that hold all its layers
    host: int  # bytes in the host's memory
    window: int  # the longest sequence, at most the wanted one; 0: it does not fit
    num_pages: int
    seqs: int  # sequences that may run at once
    step_tokens: int
    page_bytes: int
    groups: tuple[KvGroup, ...]
    state_bytes: int  # of each sequence, beside its pages
    left: int  # bytes that would be there for the cache
    activations: int  # bytes of the largest step
    graphs: int  # bytes of recorded steps
    context: int  # bytes of the driver and its libraries
    reason: str  # how the bytes are spent, or why they are not enough
    choices: tuple[Choice, ...] = ()  # what the engine would set by itself, with its reasons: window, step, cache

    @property
    def fits(self) -> bool:
        """Whether a sequence of some tokens can be served."""
        return self.window > 0

    def sequences(self, tokens: int) -> float:
        """How many sequences of `tokens` tokens there is room for at once."""
        if not self.fits:
            return 0.0
        if self.state_bytes:
            pages = sequence_pages(tokens, 1, self.groups)
            return self.kv / (self.state_bytes + pages * self.page_bytes)
        return concurrency(self.num_pages, tokens, self.step_tokens, self.groups)


def room_of(card: ModelCard, layout: Layout, wish: Wish) -> Room:
    """The room of one replica. Raises CheckpointError where the model cannot be dealt to the layout's cards."""
    if layout.tp > 1:
        _check_dealing(card, layout.tp)
    gpu = min(layout.cards, key=lambda gpu: gpu.memory_gib)
    defaults = capacity.DEFAULTS[gpu.kind]
    spec = EngineSpec(
        "", "", "", max_model_len=wish.window, max_num_seqs=wish.rows, max_num_batched_tokens=wish.step_tokens,
        gpu_memory_utilization=wish.utilisation, kv_cache_gib=wish.kv_gib, graphs=wish.graphs, tp=layout.tp,
    )  # fmt: skip
    want = capacity.wanted(spec, card.window, defaults, writes_out(card, wish.quantization))
    need = _need(card, layout, wish, gpu, want.seqs, want.budget, want.window)
    weights, host = _on_card(layout, need)
    free = int(gpu.memory_gib * GIB) - need.context
    if layout.kind == "layers":
        weights, free = _split(card, layout, wish, need)

    def measure(rows: int, budget: int, window: int) -> int | None:
        item = item_bytes(card, gpu.kind)
        peak = _activation_bytes(card, wish.quantization, layout.tp, rows, budget, window, need.groups, item)
        return peak if weights + peak + need.page_bytes < free else None

    used = int((wish.utilisation or capacity.UTILISATION) * free)
    room = Room(
        weights, 0, host, 0, 0, want.seqs, want.budget, need.page_bytes, need.groups, need.state_bytes,
        left=0, activations=need.activations, graphs=need.graphs, context=need.context, reason="",
    )  # fmt: skip
    if weights > used:
        over = f"weights take {weights / GIB:.1f} GiB of a card, and of {gpu.name} {used / GIB:.1f} GiB may be used"
        return replace(room, reason=over)
    choices: list[Choice] = []
    try:
        limits, space = _fitted(spec, want, card, need, weights, free, measure, choices, defaults)
    except CapacityError as error:
        return replace(room, reason=str(error))
    reason, window = space.reason, limits.max_model_len
    if wish.host_gib is not None and host > wish.host_gib * GIB:
        reason, window = f"{host / GIB:.1f} GiB of host memory are needed and {wish.host_gib:.1f} are free", 0
    step = limits.max_num_batched_tokens
    return replace(
        room, kv=space.kv_bytes, window=window, num_pages=limits.num_pages, step_tokens=step, left=space.left,
        activations=measure(want.seqs, step, want.window) or 0, reason=reason, choices=tuple(choices),
    )  # fmt: skip


def _need(card: ModelCard, layout: Layout, wish: Wish, gpu: Gpu, rows: int, budget: int, window: int) -> NativeBytes:
    lookup = layout.offload == "lookup"
    return _native_bytes(
        card, wish.quantization, wish.kv_dtype, layout.tp, rows, budget, window, gpu.kind, lookup,
        graphs=wish.graphs, page_tokens=wish.page_tokens,
    )  # fmt: skip


# A search asks for the same bytes again and again, on cards that differ in nothing but their size.
_native_bytes = lru_cache(maxsize=512)(native_bytes)
_weight_bytes = lru_cache(maxsize=64)(weight_bytes)
_activation_bytes = lru_cache(maxsize=512)(activation_bytes)


def _on_card(layout: Layout, need: NativeBytes) -> tuple[int, int]:
    """Weights on the card and bytes in the host's memory."""
    experts = need.by_role.get("expert", 0) if layout.offload == "experts" else 0
    return need.weights - experts, need.host + experts


def _fitted(
    spec: EngineSpec, want: capacity.Wanted, card: ModelCard, need: NativeBytes, weights: int, free: int,
    measure: capacity.Measure, choices: list[Choice], defaults: capacity.Defaults,
) -> tuple[capacity.Limits, capacity.Space]:  # fmt: skip
    """Limits and cache as the engine would set them. Raises CapacityError."""
    if not need.groups:  # no pages: every sequence has a state and nothing else
        share = spec.gpu_memory_utilization or capacity.UTILISATION
        left = int(free * share) - weights - need.activations - need.graphs
        if left < need.state_bytes:
            raise CapacityError(f"{weights / GIB:.2f} GiB of weights leave no room for one sequence's state")
        space = capacity.Space(left, "recurrent states", want.budget, left)
        return capacity.Limits(want.window, want.seqs, want.budget, 0, want.budget), space
    needed = capacity.full_bytes(want, need.groups, need.page_bytes)
    if defaults.host_share is not None:
        space = capacity.space_on_host(spec, want, free - weights, defaults.host_share, needed, choices)
    else:
        space = capacity.space_beside_steps(
            spec, want, measure, card.vocabulary, free, lambda: free - weights, needed, need.groups, need.page_bytes, choices,
            "predicted",
        )  # fmt: skip
    return capacity.fitted(want, space, need.groups, need.page_bytes, spec.max_model_len is not None, choices), space


def _check_dealing(card: ModelCard, tp: int) -> None:
    """Raises CheckpointError where query heads do not divide evenly: every rank must have the same work."""
    odd = next((layer for layer in card.layers if layer.heads % tp), None)
    if odd is not None:
        raise CheckpointError(f"layer {odd.index} has {odd.heads} heads, which {tp} cards cannot share evenly")


# ---------------------------------------------------------------- layer split


def layer_shares(card: ModelCard, gpus: tuple[Gpu, ...], wish: Wish) -> tuple[int, ...]:
    """How many layers each card of a layer split has: by its speed, and at most what its memory holds."""
    count = len(card.layers)
    each, end = _layer_bytes(card, wish, gpus[0].kind)
    ends = [end * (index in (0, len(gpus) - 1)) for index in range(len(gpus))]
    most = [max(1, int((gpu.memory_gib * GIB * _SPLIT_SHARE - own) // max(1, each))) for gpu, own in zip(gpus, ends, strict=True)]
    speed = sum(gpu.read_bytes_s for gpu in gpus)
    shares = [max(1, min(limit, round(count * gpu.read_bytes_s / speed))) for gpu, limit in zip(gpus, most, strict=True)]
    while (short := count - sum(shares)) and (short > 0 or max(shares) > 1):
        step = 1 if short > 0 else -1
        # A layer goes where most room is left, and is taken from where least is.
        place = max((i for i, share in enumerate(shares) if share + step > 0), key=lambda i: step * (most[i] - shares[i]))
        shares[place] += step
    return tuple(shares)


def _split(card: ModelCard, layout: Layout, wish: Wish, need: NativeBytes) -> tuple[int, int]:
    """Weights of all layers, and the memory of one card that would hold them as tightly as the tightest share does."""
    each, end = _layer_bytes(card, wish, layout.gpus[0].kind)
    if layout.offload == "experts":
        each -= need.by_role.get("expert", 0) // len(card.layers)
    last = len(layout.shares) - 1
    whole = each * len(card.layers) + 2 * end
    free = None
    for index, (gpu, share) in enumerate(zip(layout.cards, layout.shares, strict=True)):
        mine = each * share + end * (index in (0, last))
        room = int(gpu.memory_gib * GIB) - need.context - mine
        # The cache is dealt like the layers, so the tightest card decides how much of it there is.
        of_all = room * len(card.layers) // max(1, share)
        free = of_all if free is None else min(free, of_all)
    return whole, whole + (free or 0)


def _layer_bytes(card: ModelCard, wish: Wish, kind: str) -> tuple[int, int]:
    """Bytes of a layer (the mean), and of what goes before the first or comes after the last."""
    body = _weight_bytes(card, wish.quantization, 1, kind, range(len(card.layers)))
    rest = _weight_bytes(card, wish.quantization, 1, kind) - body
    return body // len(card.layers), rest if card.tied else rest // 2


def longest_window(room: Room, count: int, most: int) -> int:
    """The longest window of which `count` sequences fit at once."""
    if not room.fits or not room.groups:
        return room.window
    return longest_sequence(room.num_pages // max(1, count), room.step_tokens, min(most, room.window), room.groups)
