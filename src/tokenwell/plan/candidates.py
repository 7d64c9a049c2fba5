"""Every layout that some cards allow, priced: what it has room for, how fast it is, how well it serves a goal.

There is no list of models and cards here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tokenwell.plan.card import ModelCard
from tokenwell.plan.gpus import Gpu
from tokenwell.plan.link import Layout, Link, link_of
from tokenwell.plan.room import Room, Wish, layer_shares, room_of
from tokenwell.plan.speed import Speed, predict
from tokenwell.wire.errors import CheckpointError

_FEW_ROWS, _SHORT_STEP = 8, 2048  # sequences at once, and tokens a step, where memory is short
_LEAST_PART = 4  # of the goal's context: a shorter window is a last resort
_WIDE = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Goal:
    """A workload that layouts are compared on: `sessions` at once, each with `prompt` new tokens behind `context` old ones."""

    name: str
    sessions: int
    context: int
    prompt: int
    answer: int
    sentence: str


GOALS = {
    goal.name: goal
    for goal in (
        Goal("agents", 4, 16384, 4096, 256,
             "the mean time of a turn when 4 sessions at once bring 4,096 new tokens each and get 256 (16,384 in context)"),
        Goal("latency", 1, 8192, 2048, 256, "the time of one session's turn of 2,048 new tokens and an answer of 256"),
        Goal("throughput", 64, 2048, 1024, 256, "answer tokens a second of all sessions, up to 64 at once (1,024 in, 256 out)"),
        Goal("context", 1, 8192, 4096, 256, "the longest window, then the tokens that fit in all"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One layout, priced. `runs` is what the engine can do today; `fits` is what memory allows."""

    layout: Layout
    quantization: str
    room: Room | None  # of one replica; None: the model cannot be dealt so
    speed: Speed | None  # of a replica with the rows that it serves at once
    rows: int  # sessions that a replica serves at once
    context: int  # tokens behind each of them, as `speed` was asked for
    prompt: int  # new tokens of a turn, as `speed` was asked for
    turn_ms: float
    tokens_s: float  # answers of all sessions together
    runs: bool
    reason: str  # why it does not fit or run; how its memory is spent otherwise

    @property
    def fits(self) -> bool:
        """Whether memory is enough for one sequence at least."""
        return self.room is not None and self.room.fits

    @property
    def window(self) -> int:
        """The longest sequence; 0 where none fits."""
        return 0 if self.room is None else self.room.window

    @property
    def tokens(self) -> int:
        """Tokens of K and V that all replicas hold in sequences of their window."""
        return 0 if self.room is None else int(self.layout.replicas * self.room.sequences(self.room.window) * self.room.window)

    @property
    def name(self) -> str:
        """In words."""
        return describe(self.layout) + (f", {self.quantization}" if self.quantization not in ("auto", "none") else "")


@dataclass(frozen=True)
class Question:
    """What is to be laid out, on which cards, for what."""

    card: ModelCard
    gpus: tuple[Gpu, ...]
    link: Link
    goal: Goal
    wish: Wish
    engine: str
    graphs: bool
    host_gb_s: float | None
    tp: int | None = None
    replicas: int | None = None
    ple_offload: str = "auto"

    def with_cards(self, gpus: tuple[Gpu, ...]) -> Question:
        """The same on other cards, joined the same way where they can be."""
        same = gpus[0].name == self.gpus[0].name
        link = link_of(gpus, self.link.pcie_gen or None, self.link.pcie_lanes or None, self.link.p2p if same else None)
        return replace(self, gpus=gpus, link=self.link if same and len(self.gpus) > 1 else link)


def ranked(question: Question) -> list[Candidate]:
    """All candidates, the best for the goal first."""
    candidates = [_candidate(question, layout) for layout in _layouts(question)]
    return sorted(candidates, key=lambda candidate: _score(question, candidate), reverse=True)


def _layouts(question: Question) -> Iterator[Layout]:
    """Everything that the cards and the settings allow: each kind of card alone, equal cards together, all cards together."""
    gpus, asked = question.gpus, question.replicas
    kinds = [tuple(gpu for gpu in gpus if gpu.name == kind.name) for kind in _different(gpus)]
    if question.tp in (None, 1) and asked in (None, 1):
        for equal in kinds:
            yield Layout("single", (max(equal, key=lambda gpu: gpu.memory_gib),))
    for cards in [*kinds, gpus] if len(kinds) > 1 else kinds:
        yield from _together(question, cards)


def _together(question: Question, gpus: tuple[Gpu, ...]) -> Iterator[Layout]:
    """Layouts of several cards."""
    count, tp, asked = len(gpus), question.tp, question.replicas
    if 1 < (asked or count) <= count and tp in (None, 1):
        yield Layout("replicas", gpus[: asked or count], replicas=asked or count)
    for ranks in range(2, count + 1) if tp is None else [tp]:
        replicas = asked or (count // ranks if len(_different(gpus)) == 1 else 1)
        if ranks > 1 and 0 < replicas * ranks <= count:
            yield Layout("tensor", gpus[: ranks * replicas], ranks, replicas)
    if count > 1 and tp is None and asked in (None, 1):
        yield Layout("layers", gpus, shares=layer_shares(question.card, gpus, question.wish))


def _different(gpus: Sequence[Gpu]) -> list[Gpu]:
    return list({gpu.name: gpu for gpu in gpus}.values())


def _candidate(question: Question, layout: Layout) -> Candidate:
    """A layout with the least given up that leaves room for the goal's work: tables go to the host's memory first, then
    there are fewer sequences at once than the engine's default, then weights become fp8, then experts go to the host."""
    tried: list[Candidate] = []
    for offload, wish in _concessions(question):
        found = _priced(question, replace(layout, offload=offload), wish)
        if found.runs and _roomy(question, found):
            return found
        tried.append(found)
    # Of what does not fit the one that comes nearest.
    return max(tried, key=lambda found: (found.fits, found.runs, _roomy(question, found), -weights_of(found), found.window))


def _concessions(question: Question) -> Iterator[tuple[str, Wish]]:
    """What stays in the host's memory and what is asked of the card's, least given up first."""
    wish = question.wish
    few, short = wish.rows or max(_FEW_ROWS, question.goal.sessions), wish.step_tokens or _SHORT_STEP
    sizes = [(wish.rows, wish.step_tokens)] + [(few, short)] * ((few, short) != (wish.rows, wish.step_tokens))
    places = _places(question)
    tables = [place for place in places if place != "experts"]
    for quantization in _precisions(question):
        for rows, step_tokens in sizes:
            for place in tables:
                yield place, replace(wish, quantization=quantization, rows=rows, step_tokens=step_tokens)
    if "experts" in places:
        yield "experts", replace(wish, rows=few, step_tokens=short)


def weights_of(candidate: Candidate) -> float:
    """Bytes of weights on its fullest card; infinite where the model cannot be dealt so."""
    return candidate.room.weights if candidate.room is not None else math.inf


def _roomy(question: Question, candidate: Candidate) -> bool:
    """Whether its window is a good part of what the goal's sessions need, or all that was asked for."""
    asked = min(question.wish.window or question.card.window, question.card.window)
    return candidate.room is not None and candidate.room.window >= min(asked, question.goal.context // _LEAST_PART)


def _precisions(question: Question) -> list[str]:
    asked = question.wish.quantization
    wide = question.card.stored is None and question.card.dtype in _WIDE
    return [asked, "fp8"] if asked == "auto" and wide and question.gpus[0].vendor != "cpu" else [asked]


def _places(question: Question) -> list[str]:
    """What may stay in the host's memory, least first. Nothing has to where the card is the host."""
    roles = {tensor.role for tensor in question.card.tensors}
    if question.gpus[0].vendor == "cpu":
        return ["none"]
    tables = ["none", "lookup"] if "lookup" in roles else ["none"]
    if len(tables) > 1 and question.ple_offload != "auto":
        tables = [tables[question.ple_offload == "on"]]
    return [*tables, "experts"] if "expert" in roles else tables


def _priced(question: Question, layout: Layout, wish: Wish) -> Candidate:
    goal, quantization = question.goal, wish.quantization
    refusal = reason_not(question, layout)
    try:
        room = _tightest(question, layout, wish)
    except CheckpointError as error:
        return Candidate(layout, quantization, None, None, 0, 0, 0, math.inf, 0.0, False, str(error))
    if not room.fits:
        return Candidate(layout, quantization, room, None, 0, 0, 0, math.inf, 0.0, refusal is None, room.reason)
    context = min(goal.context, room.window)
    prompt = min(goal.prompt, room.window)
    each = math.ceil(goal.sessions / layout.replicas)
    # Sequences grow into their context, so nearly enough room for one more is enough.
    held = max(1.0, min(each, room.seqs, room.sequences(context)))
    rows = round(held)
    speed = predict(
        question.card, layout, rows, context, prompt, quantization, wish.kv_dtype, question.engine, question.graphs,
        question.link, question.host_gb_s,
    )  # fmt: skip
    # Prompts of a replica's sessions are computed one after the other: the mean one waits for half of the others.
    waves = each / held
    answer_ms = goal.answer * speed.tpot_ms
    turn_ms = waves * ((rows + 1) / 2 * speed.ttft_ms + answer_ms)
    tokens_s = 1e3 * layout.replicas * rows * goal.answer / (rows * speed.ttft_ms + answer_ms)
    return Candidate(
        layout, quantization, room, speed, rows, context, prompt, turn_ms, tokens_s, refusal is None, refusal or room.reason
    )


def _tightest(question: Question, layout: Layout, wish: Wish) -> Room:
    """The room of the replica that has least."""
    if layout.kind != "replicas":
        return room_of(question.card, layout, wish)
    # Equal cards need not have the same memory free.
    cards = {(gpu.name, gpu.memory_gib): gpu for gpu in layout.gpus}.values()
    rooms = [room_of(question.card, Layout("single", (gpu,), offload=layout.offload), wish) for gpu in cards]
    return min(rooms, key=lambda room: (room.fits, room.kv))


def reason_not(question: Question, layout: Layout) -> str | None:
    """Why the engine cannot do this today; None where it can."""
    engine = question.engine.partition("==")[0]
    unlike = len({gpu.name for gpu in layout.gpus}) > 1
    if engine == "native":
        if not question.card.served:
            what = "GGUF files" if question.card.stored == "gguf" else question.card.architecture
            return f"the native engine does not serve {what} yet"
        if layout.kind == "layers":
            return "the native engine has no layer split yet"
        if unlike:
            return "the native engine does not mix unlike cards in one service yet"
        if layout.offload == "experts":
            return "the native engine does not keep experts in host memory yet"
    if engine == "vllm" and (unlike or layout.offload != "none"):
        return "vLLM wants equal cards and keeps nothing of a model in host memory by itself"
    if engine == "llama.cpp" and layout.kind == "tensor":
        return "llama.cpp splits by layers"
    return None


def _score(question: Question, candidate: Candidate) -> tuple[float, ...]:
    """More is better: room for the goal's work first, then its measure; of equals what serves more in all, then the simpler."""
    if candidate.room is None or not candidate.fits:
        return (0.0, candidate.runs)
    simple = -float(len(candidate.layout.gpus) * candidate.layout.tp)
    if question.goal.name == "context":
        return (1.0, candidate.room.window, candidate.tokens, simple)
    measure = candidate.tokens_s if question.goal.name == "throughput" else 1e6 / candidate.turn_ms
    return (1.0, _roomy(question, candidate), _rounded(measure), _rounded(candidate.tokens_s), simple)


def _rounded(value: float) -> float:
    """Two per cent are within what a prediction cannot tell apart."""
    return round(math.log(max(value, 1e-9)) / math.log(1.02))


def describe(layout: Layout) -> str:
    """A layout in words."""
    cards = card_names(layout.gpus)
    words = {
        "single": f"one {cards}",
        "replicas": f"{layout.replicas} replicas, one on each of {cards}",
        "layers": f"layers split over {cards} ({' + '.join(map(str, layout.shares))})",
        "tensor": f"every layer shared by {cards}"
        if layout.replicas == 1
        else f"{layout.replicas} replicas on {cards}, every layer shared by {layout.tp}",
    }[layout.kind]
    host = {"none": "", "lookup": ", lookup table in host memory", "experts": ", experts in host memory"}[layout.offload]
    return words + host


def card_names(gpus: Sequence[Gpu]) -> str:
    """Such as "2 Arc A770", "RTX 3090 and RTX 3060"."""
    counts: dict[str, int] = {}
    for gpu in gpus:
        counts[gpu.name] = counts.get(gpu.name, 0) + 1
    if len(gpus) == 1:
        return gpus[0].name
    return " and ".join(f"{count} {name}" if count > 1 or len(counts) == 1 else name for name, count in counts.items())
