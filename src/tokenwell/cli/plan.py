"""`tokenwell plan`: what a model takes and does on some cards, or on this machine, before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import msgspec

from tokenwell.checkpoint.hub import ENDPOINT
from tokenwell.config.load import Loaded, cache_folder, process_environment
from tokenwell.host.bandwidth import read_bytes_s
from tokenwell.host.cpu import read_cpu
from tokenwell.host.gpus import cards
from tokenwell.host.machine import LiveMachine
from tokenwell.host.masks import MASKS, SELECTOR
from tokenwell.host.memory import read_memory
from tokenwell.host.software import read_software
from tokenwell.plan import explain
from tokenwell.plan.card import ModelCard, read_card
from tokenwell.plan.gpus import find_gpus
from tokenwell.plan.link import link_of
from tokenwell.plan.machine import MachineCards, cards_here, processor_here
from tokenwell.plan.plan import Plan, Wishes, make_plan
from tokenwell.wire.errors import CapacityError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 160  # a file or a pipe has no width of its own


def plan(
    loaded: Loaded, model: str, gpus: Sequence[str], *, engine: str, batch: int, prompt_tokens: int,
    context_tokens: int | None, printed: tuple[int, float] | None, json: bool, explained: bool,
) -> None:  # fmt: skip
    """Print the plan. Raises the errors of `read_card`, `find_gpus` and `make_plan`."""
    wishes = replace(
        wishes_of(loaded), engine=engine, batch=batch, prompt_tokens=prompt_tokens, context_tokens=context_tokens,
        printed=printed,
    )  # fmt: skip
    hub = process_environment(("HF_ENDPOINT", "HF_TOKEN"))  # as the Hub's own tools read them
    card = read_card(model, hub.get("HF_ENDPOINT") or ENDPOINT, hub.get("HF_TOKEN"))
    found, _ = make_plan(model, card, named(gpus) if gpus else this_machine(loaded, wishes, card), wishes)
    if found.cuts and loaded.settings.engine.strict:
        raise CapacityError(f"with --strict nothing is cut, and this would be: {'; '.join(found.cuts)}")
    if json:
        print(msgspec.json.encode(asdict(found)).decode())
        return
    from rich.console import Console  # JSON does not need it

    _print(Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False), found, explained)


def wishes_of(loaded: Loaded) -> Wishes:
    """What the settings ask for; a default asks for nothing."""
    engine = loaded.settings.engine
    return Wishes(
        quantization=engine.quantization, kv_cache_dtype=engine.kv_cache_dtype, dtype=engine.dtype,
        page_tokens=engine.page_tokens, max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs, max_num_batched_tokens=engine.max_num_batched_tokens,
        gpu_memory_utilization=engine.gpu_memory_utilization, kv_gib=engine.kv_cache_gib,
        tp=engine.tp,
        replicas=engine.replicas,
        goal=engine.goal,
        ple_offload=engine.ple_offload, graphs=engine.graphs,
    )  # fmt: skip


def named(gpus: Sequence[str]) -> MachineCards:
    """The cards that `--gpu` names."""
    found = tuple(gpu for text in gpus for gpu in find_gpus(text))
    return MachineCards(found, tuple(range(len(found))), link_of(found), None)


def this_machine(loaded: Loaded, wishes: Wishes, card: ModelCard) -> MachineCards:
    """The cards of this machine, or its processor with the threads that `card` gets, where there is none or it was asked for."""
    machine, memory = LiveMachine(), read_memory()
    device = loaded.settings.engine.device
    kind, _, index = device.partition(":")
    hiding = process_environment({SELECTOR, *(name for names in MASKS.values() for name in names)})
    found = None
    if kind != "cpu":
        torch = read_software(machine).torch
        found = cards_here(cards(machine), memory, torch, hiding, int(index) if index else None)
    if found is not None:
        return found
    processor = read_cpu(machine)
    count = (wishes.tp or 1) * (wishes.replicas or 1)
    threads = loaded.settings.engine.threads or processor.threads_for(card.total_bytes)[0]
    threads = min(threads * count, processor.compute_threads[0])
    speed = _memory_speed(f"{processor.model}, {threads} threads", threads)
    return processor_here(processor, memory, speed, threads, count)


def _memory_speed(what: str, threads: int) -> float:
    """Bytes a second that the processor reads: measured once and kept, as it costs a fifth of a second of every start."""
    try:
        kept = cache_folder() / "memory-speed.json"
    except SettingsError:
        return read_bytes_s(threads)
    with suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(kept.read_bytes(), type=dict[str, float])
        if known.get(what, 0) > 0:
            return known[what]
    measured = read_bytes_s(threads)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(msgspec.json.encode({what: measured}))
    return measured


def _print(console: Console, plan: Plan, explained: bool) -> None:
    console.print(explain.headline(plan), style="bold")
    _table(console, explain.facts(plan))
    _table(console, explain.memory(plan), "one card's memory", "GiB", "share")
    if plan.alternatives:
        _table(console, explain.comparison(plan), "layout", "window", "first token", "each token", "a turn", "tokens/s", "")
    for cut in plan.cuts:
        console.print(f"Cut: {cut}", style="yellow")
    if explained:
        _table(console, explain.formulas(plan), "phase", "part", "ms", "formula")
        for reason in plan.reasons:
            console.print(f"- {reason}")
    elif plan.reasons:
        console.print(plan.reasons[0])


def _table(console: Console, rows: Iterable[Sequence[str]], *header: str) -> None:
    from rich.table import Table

    table = Table(*header, show_header=bool(header), box=None, pad_edge=False, padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()
