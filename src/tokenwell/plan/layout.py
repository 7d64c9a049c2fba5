"""Which cards do what: the layout that serves a goal best, why, and what would help where none fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tokenwell.plan.candidates import GOALS, Candidate, Goal, Question, card_names, describe, ranked, reason_not, weights_of
from tokenwell.plan.card import ModelCard
from tokenwell.plan.gpus import Gpu, known_gpus
from tokenwell.plan.held import item_bytes
from tokenwell.plan.link import Layout, Link, link_of
from tokenwell.plan.room import GIB, Wish
from tokenwell.wire.capacity import DEFAULTS
from tokenwell.wire.errors import CheckpointError, SettingsError

__all__ = ["GOALS", "Candidate", "Change", "Decision", "Goal", "Layout", "choose", "describe"]


@dataclass(frozen=True)
class Change:
    """Something that would make the model fit."""

    settings: Mapping[str, str]  # of the command line, or "cards" (how many) or "card" (which)
    sentence: str
    candidate: Candidate  # the best layout with it


@dataclass(frozen=True)
class Decision:
    """The choice. `best` is None where nothing that runs fits; then `changes` says what would, the smallest first."""

    goal: Goal
    best: Candidate | None
    runners_up: tuple[Candidate, ...]  # what fits, best first, whether the engine can run it or not
    refused: tuple[Candidate, ...]  # what does not fit
    reasons: tuple[str, ...]
    changes: tuple[Change, ...] = ()


def choose(
    card: ModelCard, gpus: Sequence[Gpu], link: Link | None = None, goal: str = "agents", *, quantization: str = "auto",
    kv_dtype: str = "auto", window: int | None = None, rows: int | None = None, step_tokens: int | None = None,
    utilisation: float | None = None, kv_gib: float | None = None, tp: int | None = None, replicas: int | None = None,
    ple_offload: str = "auto", host_gib: float | None = None, host_gb_s: float | None = None, engine: str = "native",
    graphs: bool = True, dtype: str = "auto", page_tokens: int = 16,
) -> Decision:  # fmt: skip
    """The layout that serves the goal best, with the others and the reasons.

    With `quantization` "auto" a layout that does not hold the weights as stored is tried with fp8 weights. Raises
    SettingsError for a goal that is not known, for no cards, for more ranks than cards, and for other words that are not known.
    """
    if goal not in GOALS:
        raise SettingsError(f"--goal {goal!r} is not known; use {', '.join(GOALS)}")
    if not gpus:
        raise SettingsError("there are no cards to plan for: name them with --gpu, or plan for the processor")
    if not 1 <= (tp or 1) * (replicas or 1) <= len(gpus):
        raise SettingsError(f"--tp {tp or 1} with --replicas {replicas or 1} needs as many cards, and there are {len(gpus)}")
    item_bytes(card, "cuda", dtype)  # refuses words that are not known
    if dtype != "auto":
        card = replace(card, dtype=dtype)
    question = Question(
        card, tuple(gpus), link or link_of(gpus), GOALS[goal],
        Wish(quantization, kv_dtype, window, rows, step_tokens, utilisation, kv_gib, page_tokens, graphs, host_gib), engine,
        graphs, host_gb_s, tp, replicas, ple_offload,
    )  # fmt: skip
    candidates = ranked(question)
    fitting = [candidate for candidate in candidates if candidate.fits]
    best = next((candidate for candidate in fitting if candidate.runs), None)
    changes = () if best is not None else tuple(_changes(question))
    others = tuple(candidate for candidate in fitting if candidate is not best)
    refused = tuple(candidate for candidate in candidates if not candidate.fits)
    return Decision(question.goal, best, others, refused, tuple(_reasons(question, best, candidates, changes)), changes)


# ---------------------------------------------------------------- reasons


def _reasons(
    question: Question, best: Candidate | None, candidates: list[Candidate], changes: tuple[Change, ...]
) -> Iterator[str]:
    goal = question.goal
    if best is None or best.speed is None or best.room is None:
        yield _why_none(question, candidates)
        if changes:
            yield f"The smallest change that would make it fit: {changes[0].sentence}."
        return
    yield f"{best.name[0].upper()}{best.name[1:]}: chosen for {goal.name}, which is {goal.sentence}."
    if best.layout.replicas > 1:
        yield "Sessions go to the replica that already has their prefix."
    if best.quantization == "fp8" and question.wish.quantization == "auto":
        yield "Weights become fp8 on loading: as stored they leave no room for the work on this layout's cards."
    if question.wish.rows is None and best.room.seqs < DEFAULTS[best.layout.gpus[0].kind].rows:
        yield (
            f"At most {best.room.seqs} sequences run at once and a step has at most {best.room.step_tokens:,} tokens: larger "
            "steps would take memory that the cache needs."
        )
    if best.layout.offload == "lookup":
        yield "The per-layer embedding table is only looked up, so it stays in host memory and the card keeps room for the cache."
    if best.room.window < min(goal.context, question.wish.window or question.card.window):
        yield f"The window is cut to {best.room.window:,} tokens: {best.room.reason}."
    for other in candidates:
        if other is not best and other.fits and other.speed is not None:
            yield _against(goal, best, other)
    for other in candidates:
        if not other.fits:
            yield f"{other.name} does not fit: {other.reason}."


def _against(goal: Goal, best: Candidate, other: Candidate) -> str:
    assert best.room is not None and other.room is not None and best.speed is not None and other.speed is not None
    if goal.name == "throughput":
        told = f"{other.tokens_s:,.0f} tokens a second against {best.tokens_s:,.0f}"
    elif goal.name == "context":
        theirs, ours = other.room.window, best.room.window
        told = f"a window of {theirs:,} and {other.tokens:,} tokens in all against {ours:,} and {best.tokens:,}"
    else:
        told = f"{other.turn_ms / 1e3:.2f} s a turn against {best.turn_ms / 1e3:.2f} s"
    why = "" if other.runs else f" ({other.reason})"
    sums = sum(term.ms for term in other.speed.terms if term.name == "all-reduce" and term.phase == "decode")
    cost = f"; {sums:.1f} ms of each {other.speed.tpot_ms:.1f} ms step are sums between the cards" if sums else ""
    return f"{other.name}: {told}{cost}{why}."


def _why_none(question: Question, candidates: list[Candidate]) -> str:
    fitting = [candidate for candidate in candidates if candidate.fits]
    if fitting:
        return f"Nothing that the {question.engine} engine can run fits; {fitting[0].name} would: {fitting[0].reason}."
    return f"It does not fit on {card_names(question.gpus)}: {min(candidates, key=weights_of).reason}."


# ---------------------------------------------------------------- what would help


def _changes(question: Question) -> Iterator[Change]:
    """Single changes with which a layout that runs fits, the smallest first: a setting, else a precision; then cards."""
    if reason_not(question, Layout("single", question.gpus[:1])) is not None:
        return
    wish = question.wish
    for settings, other in (
        ({"max_num_seqs": "8"}, replace(wish, rows=min(8, wish.rows or 0) or None)),
        ({"kv_cache_dtype": "fp8"}, replace(wish, kv_dtype="fp8")),
        ({"quantization": "fp8"}, replace(wish, quantization="fp8")),
        ({"quantization": "int4"}, replace(wish, quantization="int4")),
    ):
        if other != wish and (change := _change(replace(question, wish=other), settings)):
            yield change
            break
    largest = max(question.gpus, key=lambda gpu: gpu.memory_gib)
    if largest.vendor != "cpu":
        yield from _more_cards(question, largest)
        yield from _bigger_card(question, largest)


def _change(question: Question, settings: Mapping[str, str]) -> Change | None:
    try:
        best = next((candidate for candidate in ranked(question) if candidate.fits and candidate.runs), None)
    except (CheckpointError, SettingsError):
        return None
    if best is None or best.room is None:
        return None
    flags = "".join(f"--{name.replace('_', '-')} {value}, " for name, value in settings.items() if not name.startswith("card"))
    weights = f"{best.room.weights / GIB:.1f} GiB of weights a card and a window of {best.room.window:,}"
    return Change(settings, f"{flags}{best.name}, with {weights}", best)


def _more_cards(question: Question, gpu: Gpu) -> Iterator[Change]:
    """As many of the largest card as a model is usually dealt to."""
    there = sum(other.name == gpu.name for other in question.gpus)
    for count in (count for count in (2, 3, 4, 6, 8) if count > there):
        if change := _change(question.with_cards((gpu,) * count), {"cards": str(count)}):
            yield replace(change, sentence=f"{count - there} more {gpu.name}: {change.sentence}")
            return


def _bigger_card(question: Question, largest: Gpu) -> Iterator[Change]:
    """The smallest larger card, of the same maker if there is one, of which as many would do."""
    bigger = sorted(
        (gpu for gpu in known_gpus() if gpu.memory_gib > 1.1 * largest.memory_gib),
        key=lambda gpu: (gpu.vendor != largest.vendor, gpu.memory_gib, gpu.bandwidth_gb_s),
    )
    sizes = {(gpu.vendor, round(gpu.memory_gib)): gpu for gpu in reversed(bigger)}
    for gpu in [gpu for gpu in bigger if gpu in sizes.values()]:
        if change := _change(question.with_cards((gpu,) * len(question.gpus)), {"card": gpu.name}):
            yield replace(change, sentence=f"a bigger card, {gpu.name} with {gpu.memory_gib:g} GiB: {change.sentence}")
            return
