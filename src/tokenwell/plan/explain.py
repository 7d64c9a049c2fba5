"""A plan in words: the lines and tables that people read. Knows no terminal."""

from __future__ import annotations

from collections.abc import Iterator

from tokenwell.plan.plan import Alternative, Plan

Row = tuple[str, ...]


def headline(plan: Plan) -> str:
    """One line: what on what."""
    precision = "" if plan.quantization in ("auto", "none") else f", {plan.quantization} weights"
    return f"{plan.architecture} with {plan.engine}{precision}: {plan.layout.words}"


def facts(plan: Plan) -> Iterator[Row]:
    """(what, how much) of the plan itself."""
    speed, kv = plan.speed, plan.kv
    yield "window", f"{plan.max_model_len:,} tokens, prompt and answer together"
    yield "sessions", f"{kv.max_concurrency:.2f} of the whole window at once, {kv.tokens:,} tokens in all"
    blocks, there = f"{kv.num_blocks:,}", f"{kv.available_gib:.2f} GiB would be there"
    if kv.num_blocks_range is not None and kv.num_blocks_range[0] != kv.num_blocks_range[1]:
        blocks = f"{kv.num_blocks_range[0]:,} to {kv.num_blocks_range[1]:,}"
    yield (
        "KV cache",
        f"{kv.planned_bytes / (1 << 30):.2f} GiB, {blocks} blocks of {kv.page_bytes:,} bytes ({there})",
    )
    yield "first token", f"{_ms(speed.ttft_ms)} for a prompt of {speed.prompt_tokens:,} ({speed.prefill_tokens_s:,.0f} tokens/s)"
    rows = "row" if speed.batch == 1 else "rows"
    in_all = f"{speed.decode_tokens_s:,.0f} tokens/s in all"
    yield "each token", f"{_ms(speed.tpot_ms)} at {speed.batch} {rows} of {speed.context_tokens:,} ({in_all})"
    if plan.host_gib >= 0.01:
        yield "host memory", f"{plan.host_gib:.2f} GiB"


def memory(plan: Plan) -> Iterator[Row]:
    """(what, GiB, share) of one card's memory."""
    whole = plan.memory_gib["card"]
    for name, size in plan.memory_gib.items():
        if name != "card":
            yield name, f"{size:.2f}", f"{size / whole:.0%}" if whole else ""
    yield "card", f"{whole:.2f}", ""


def comparison(plan: Plan) -> Iterator[Row]:
    """(layout, window, first token, each token, a turn, tokens/s, why not) at the goal's work, the chosen layout first."""
    for place, other in enumerate(plan.alternatives):
        yield (*_compared(other)[:-1], "chosen") if place == 0 else _compared(other)


def _compared(other: Alternative) -> Row:
    if not other.fits or other.ttft_ms is None or other.tpot_ms is None or other.turn_ms is None:
        return other.layout, "-", "-", "-", "-", "-", f"does not fit: {other.why}"
    why = "slower for this goal" if other.runs else other.why
    return (
        other.layout,
        f"{other.window:,}",
        _ms(other.ttft_ms),
        _ms(other.tpot_ms),
        _ms(other.turn_ms),
        f"{other.tokens_s or 0:,.0f}",
        why,
    )


def formulas(plan: Plan) -> Iterator[Row]:
    """(phase, what, milliseconds, formula) of every term of the speeds."""
    for term in plan.terms:
        yield term.phase, term.name, f"{term.ms:.3f}", term.formula


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 100 else f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.0f} ms"
