"""How fast a model will answer: a roofline for each phase, every term with its formula and numbers.

A decode step reads the weights it touches and the K and V that its rows see, once; a prefill multiplies. To the larger of
reading and multiplying come the fixed cost of kernels, what the host adds, and what cards tell each other. Without graphs
the host launches every operation, and where that takes longer than the card's work it sets the pace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from tokenwell.plan import rates
from tokenwell.plan.card import ModelCard
from tokenwell.plan.gpus import Gpu
from tokenwell.plan.link import Layout, Link, link_of
from tokenwell.plan.work import active_by_role, attention_flops, kv_read_bytes, matmul_flops

HOST_GB_S = 40.0  # of main memory, where it was not measured: two channels of DDR4-3200 at 80 %
_VALUE_BYTES = 2  # of what layers hand on
_ROW_FETCH_US = 20.0  # to fetch rows of a table from pinned host memory, hidden or not


@dataclass(frozen=True)
class Term:
    """One part of a prediction."""

    phase: str  # "decode" | "prefill"
    name: str
    ms: float
    formula: str  # with the numbers in it


@dataclass(frozen=True)
class Speed:
    """What one replica does with `batch` rows at a time."""

    ttft_ms: float  # of a prompt, on an idle engine
    tpot_ms: float  # of each row
    prefill_tokens_s: float
    decode_tokens_s: float  # of all rows of all replicas together
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class _Part:
    """What one card (or each of `tp` equal cards) does of a step."""

    gpu: Gpu
    share: float  # of the layers
    last: bool  # it has the head


@dataclass(frozen=True)
class _Case:
    card: ModelCard
    layout: Layout
    link: Link
    engine: rates.Engine
    quantization: str
    kv_dtype: str
    graphs: bool
    host_bytes_s: float

    @property
    def fp8(self) -> bool:
        """Whether weights of products are fp8."""
        return self.quantization == "fp8" or (self.quantization == "auto" and self.card.stored == "fp8")

    def widens(self, gpu: Gpu) -> bool:
        """Whether fp8 weights are widened before they are multiplied."""
        return self.fp8 and not gpu.has_fp8

    def records(self, gpu: Gpu) -> bool:
        """Whether steps are recorded on this card."""
        return self.graphs and gpu.vendor in self.engine.records

    @property
    def parts(self) -> tuple[_Part, ...]:
        cards = self.layout.cards
        if self.layout.kind != "layers":
            return (_Part(_slowest(cards), 1.0, True),)
        shares = self.layout.shares or tuple(1 for _ in cards)
        return tuple(
            _Part(gpu, share / sum(shares), index == len(cards) - 1)
            for index, (gpu, share) in enumerate(zip(cards, shares, strict=True))
        )


def predict(
    card: ModelCard, layout: Layout, batch: int = 1, context_tokens: int = 1024, prompt_tokens: int = 1024,
    quantization: str = "auto", kv_dtype: str = "auto", engine: str = "native", graphs: bool = True,
    link: Link | None = None, host_gb_s: float | None = None,
) -> Speed:  # fmt: skip
    """Times of one prompt and of one token at `batch` rows of `context_tokens`. Raises SettingsError on an unknown engine."""
    found = rates.find_engine(engine)
    card = card if found.folds else _unfolded(card)
    case = _Case(
        card, layout, link or link_of(layout.gpus), found, quantization, kv_dtype, graphs, (host_gb_s or HOST_GB_S) * 1e9
    )
    decode = _decode(case, batch, context_tokens)
    prefill = _prefill(case, prompt_tokens)
    tpot_ms = sum(term.ms for term in decode)
    prefill_ms = sum(term.ms for term in prefill)
    request_ms = rates.request_ms(case.engine, case.parts[0].gpu.vendor)
    request = Term("prefill", "request", request_ms, "HTTP, tokeniser and scheduler before the first step")
    return Speed(
        ttft_ms=prefill_ms + request.ms, tpot_ms=tpot_ms, prefill_tokens_s=1e3 * prompt_tokens / prefill_ms,
        decode_tokens_s=1e3 * batch * layout.replicas / tpot_ms, terms=(*decode, *prefill, request),
    )  # fmt: skip


@lru_cache(maxsize=8)
def _unfolded(card: ModelCard) -> ModelCard:
    """The card as an engine reads it that stores K and V both."""
    return replace(card, layers=tuple(replace(layer, folded=False) for layer in card.layers))


# ---------------------------------------------------------------- decode


def _decode(case: _Case, rows: int, context: int) -> list[Term]:
    terms: list[Term] = []
    for part in case.parts:
        terms += _decode_part(case, part, rows, context)
    terms += _offloaded(case, rows)
    terms += _exchange(case, "decode", rows, 1)
    if step_ms := rates.step_ms(case.engine, case.parts[0].gpu.vendor):
        terms.append(Term("decode", "host", step_ms, "the engine's own work between two steps"))
    return terms


def _decode_part(case: _Case, part: _Part, rows: int, context: int) -> list[Term]:
    tp, gpu, layers = case.layout.tp, part.gpu, len(case.card.layers) * part.share
    weights = _on_card(case, active_by_role(case.card, case.quantization, rows, tp, gpu.kind))
    size = sum(of_role * (part.last if role == "head" else part.share) for role, of_role in weights.items())
    kv = rows * kv_read_bytes(case.card, case.kv_dtype, context, tp, gpu.kind) * part.share
    widening = case.engine.widening if case.widens(gpu) else 1.0
    read_ms = 1e3 * (size / widening + kv) / gpu.read_bytes_s
    flops = (matmul_flops(case.card, rows) + rows * attention_flops(case.card, 1, context)) * part.share / tp
    rate, words = _rate(case, gpu)
    math_ms = 1e3 * flops / rate
    slower = f" / {widening:g} for widening" if widening < 1 else ""
    read = f"({_gb(size)} of weights{slower} + {_gb(kv)} of K and V) / ({gpu.bandwidth_gb_s:g} GB/s x {gpu.read_share:.2f})"
    work = Term("decode", f"read on {gpu.name}", read_ms, read)
    if math_ms > read_ms:
        work = Term("decode", f"multiply on {gpu.name}", math_ms, f"{flops / 1e9:.1f} GFLOP / {words}")
    kernels = rates.layer_kernels(case.card, case.engine)
    each = rates.kernel_us(case.engine, gpu.vendor, gpu.clock_ghz, rows)
    if gpu.vendor == "cpu" or case.records(gpu):
        formula = f"{layers:.0f} layers x {kernels} kernels x {each:.1f} us"
        return [work, Term("decode", "fixed cost of kernels", layers * kernels * each / 1e3, formula)]
    return [work, *_launches(case, "decode", layers, rates.eager_operations(case.card, case.engine), work.ms)]


def _launches(case: _Case, phase: str, layers: float, operations: float, busy_ms: float) -> list[Term]:
    """What launching every operation adds: all of it, or what the card's work does not hide."""
    ms = layers * operations * case.engine.eager_us / 1e3
    formula = f"{layers:.0f} layers x {operations:.0f} operations x {case.engine.eager_us:g} us"
    if case.engine.one_by_one:
        return [Term(phase, "launches", ms, formula)]
    return [Term(phase, "launches", max(0.0, ms - busy_ms), f"{formula} = {ms:.1f} ms, less the work behind it")]


def _on_card(case: _Case, roles: Mapping[str, float]) -> dict[str, float]:
    """Without what stays in the host's memory."""
    left = {"experts": ("expert",), "lookup": ("lookup",)}.get(case.layout.offload, ())
    return {role: size for role, size in roles.items() if role not in left}


def _offloaded(case: _Case, rows: int) -> list[Term]:
    """Reading what stays in the host's memory."""
    roles = active_by_role(case.card, case.quantization, rows, 1)
    if case.layout.offload == "experts":
        size = roles.get("expert", 0.0)
        formula = f"{_gb(size)} of experts / {case.host_bytes_s / 1e9:.0f} GB/s of host memory"
        return [Term("decode", "experts on the host", 1e3 * size / case.host_bytes_s, formula)]
    if case.layout.offload == "lookup":
        size = roles.get("lookup", 0.0)
        ms = _ROW_FETCH_US / 1e3 + 1e3 * size / case.link.pcie_bytes_s
        return [Term("decode", "table rows from the host", ms, f"{_ROW_FETCH_US:g} us + {size / 1e3:.0f} kB over PCIe")]
    return []


# ---------------------------------------------------------------- prefill


def _prefill(case: _Case, tokens: int) -> list[Term]:
    chunks = math.ceil(tokens / case.engine.chunk)
    terms: list[Term] = []
    for part in case.parts:
        terms += _prefill_part(case, part, tokens, chunks)
    cards = len(case.parts)
    if cards > 1 and case.engine.pipelined:
        # The first chunk passes all cards, each further one follows a card behind.
        saved = (1 - (chunks + cards - 1) / (chunks * cards)) * sum(term.ms for term in terms)
        terms.append(Term("prefill", "overlap of the cards", -saved, f"{chunks} chunks in a line of {cards} cards"))
    return terms + _exchange(case, "prefill", tokens, chunks)


def _prefill_part(case: _Case, part: _Part, tokens: int, chunks: int) -> list[Term]:
    tp, gpu = case.layout.tp, part.gpu
    linear, seen = (flops * part.share / tp for flops in _prompt_flops(case, tokens))
    rate, words = _rate(case, gpu)
    attention_rate = gpu.tflops["bf16"] * 1e12 * gpu.math_share * (1.0 if gpu.vendor == "cpu" else case.engine.attention)
    math_ms = 1e3 * linear / rate + 1e3 * seen / attention_rate
    roles = active_by_role(case.card, case.quantization, min(tokens, case.engine.chunk), tp, gpu.kind)
    weights = _on_card(case, roles)
    widening = case.engine.widening if case.widens(gpu) else 1.0
    read_ms = 1e3 * chunks * sum(weights.values()) * part.share / widening / gpu.read_bytes_s
    if case.layout.offload == "experts":
        # For many tokens the experts are sent to the card rather than worked on by the host.
        read_ms += 1e3 * chunks * roles.get("expert", 0.0) / min(case.link.pcie_bytes_s, case.host_bytes_s)
    formula = f"{linear / 1e12:.3g} TFLOP / {words} + {seen / 1e12:.3g} TFLOP of attention / {attention_rate / 1e12:.4g} TFLOPS"
    work = Term("prefill", f"multiply on {gpu.name}", math_ms, formula)
    if read_ms > math_ms:
        work = Term("prefill", f"read on {gpu.name}", read_ms, f"{chunks} x {_gb(sum(weights.values()) * part.share)} of weights")
    layers = len(case.card.layers) * part.share
    if gpu.vendor == "cpu":
        return [work]
    if case.records(gpu):
        each = rates.kernel_us(case.engine, gpu.vendor, gpu.clock_ghz, tokens)
        kernels = rates.layer_kernels(case.card, case.engine)
        formula = f"{chunks} x {layers:.0f} layers x {kernels} kernels x {each:.1f} us"
        return [work, Term("prefill", "fixed cost of kernels", chunks * layers * kernels * each / 1e3, formula)]
    return [work, *_launches(case, "prefill", chunks * layers, rates.eager_prefill_operations(case.card, case.engine), work.ms)]


def _prompt_flops(case: _Case, tokens: int) -> tuple[float, float]:
    """Operations of products and of attention. The head serves the last token alone, and so do, in an engine that takes the
    shortcut, the layers behind the last one with K and V of its own."""
    card = case.card
    if not case.engine.shortcut:
        head = 2.0 * card.hidden * card.vocabulary
        return matmul_flops(card, tokens) - head * (tokens - 1), attention_flops(card, tokens, tokens)
    own = max(layer.index for layer in card.layers if layer.owner == layer.index)
    front, back = replace(card, layers=card.layers[: own + 1]), replace(card, layers=card.layers[own + 1 :])
    return matmul_flops(card, tokens, 1), attention_flops(front, tokens, tokens) + attention_flops(back, 1, tokens)


# ---------------------------------------------------------------- both


def _rate(case: _Case, gpu: Gpu) -> tuple[float, str]:
    """Operations a second in products of many rows, and how they came about."""
    fp8 = case.fp8 and gpu.has_fp8 and "dense fp8" in case.engine.prefill
    share = rates.prefill_share(case.engine, gpu.vendor, bool(case.card.experts), fp8)
    peak = gpu.tflops["fp8" if fp8 else "bf16"]
    share *= gpu.math_share
    return peak * 1e12 * share, f"({peak:.4g} TFLOPS x {share:.2f})"


def _exchange(case: _Case, phase: str, tokens: int, steps: int) -> list[Term]:
    """What the cards tell each other: two sums a layer for shared layers, one handing-on at every cut of a layer split."""
    per_step = tokens / steps * case.card.hidden * _VALUE_BYTES
    if case.layout.tp > 1:
        times = 2 * len(case.card.layers) * steps
        each = case.link.all_reduce_ms(per_step, case.layout.tp)
        formula = f"{times} x {each * 1e3:.0f} us for {per_step / 1e6:.3g} MB over {case.link}"
        return [Term(phase, "all-reduce", times * each, formula)]
    cuts = len(case.parts) - 1
    if cuts:
        each = case.link.pass_ms(per_step)
        return [Term(phase, "handing on", cuts * steps * each, f"{cuts * steps} x {each * 1e3:.0f} us over {case.link}")]
    return []


def _slowest(cards: tuple[Gpu, ...]) -> Gpu:
    return min(cards, key=lambda gpu: gpu.read_bytes_s)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
