"""This machine as a plan sees it: its cards with the memory that is free on them, or its processor. Pure: facts come in.

What a card can do is looked up by the name that its driver gives; a card that the table does not know is planned for by its
memory, with the speed of a modest card, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tokenwell.host.cpu import CpuFacts
from tokenwell.host.gpus import CardFacts
from tokenwell.host.masks import MASKS, SELECTOR, named, selected
from tokenwell.host.memory import MemoryFacts
from tokenwell.host.software import BUILDS, TorchFacts
from tokenwell.plan.gpus import Gpu, find_gpu, processor
from tokenwell.plan.link import Link, link_of
from tokenwell.wire.errors import SettingsError

GIB = 1 << 30
_USABLE = {"nvidia": ("nvidia",), "intel": ("xe", "i915"), "amd": ("amdgpu",)}  # drivers that computing goes through
_UNKNOWN_GB_S = 300.0  # of a card that the table does not know: what modest cards of its generation have
_UNKNOWN_TFLOPS = 30.0
# Operations of bf16 products a cycle and core, as Intel's and AMD's optimisation manuals count them.
_CPU_FLOPS_A_CYCLE = (("amx", 1024.0), ("avx512_bf16", 128.0), ("avx512", 64.0), ("avx2", 32.0))
_CPU_GHZ = 2.8  # under load with wide vectors, where it cannot be told


@dataclass(frozen=True)
class MachineCards:
    """What there is to plan for."""

    gpus: tuple[Gpu, ...]  # memory is what is free now; the processor is one, alone
    places: tuple[int, ...]  # of each among those that programs see
    link: Link
    host_free_gib: float | None
    notes: tuple[str, ...] = ()  # what was supposed


def cards_here(
    cards: Sequence[CardFacts], memory: MemoryFacts | None, torch: TorchFacts | None = None,
    variables: Mapping[str, str] | None = None, only: int | None = None,
) -> MachineCards | None:  # fmt: skip
    """The cards that an engine can use; None where there is none.

    `torch` (None: not known) has to be built for them, `variables` may hide some, `only` is the one that was asked for.
    """
    usable = [card for card in cards if not card.integrated and card.driver in _USABLE[card.vendor] and card.memory_bytes]
    if torch is not None:
        usable = [card for card in usable if BUILDS[card.vendor] == torch.build]
    if not usable:
        return None
    # An engine takes cards of one maker.
    vendor = max((card.vendor for card in usable), key=lambda name: sum(c.memory_bytes or 0 for c in usable if c.vendor == name))
    usable = [card for card in usable if card.vendor == vendor]
    usable = _visible(usable, vendor, variables or {})
    places = tuple(range(len(usable)))
    if only is not None:
        usable, places = usable[only : only + 1], (only,)
    if not usable:
        return None
    notes: list[str] = []
    gpus = tuple(_gpu(card, notes) for card in usable)
    generations = [card.link.generation for card in usable if card.link.generation]
    widths = [card.link.width for card in usable if card.link.width]
    link = link_of(gpus, min(generations, default=None), min(widths, default=None))
    return MachineCards(gpus, places, link, _free_gib(memory), tuple(notes))


def _visible(cards: list[CardFacts], vendor: str, variables: Mapping[str, str]) -> list[CardFacts]:
    """The cards that programs see, with the numbers that they give them."""
    masks = [named(vendor, variables.get(name)) for name in MASKS[vendor]]
    if vendor == "intel":
        masks.append(selected(variables.get(SELECTOR)))
    for words in masks:
        cards = cards if words is None else _picked(cards, words)
    return cards


def _picked(cards: list[CardFacts], words: list[str]) -> list[CardFacts]:
    """The cards that a mask names, in its order; of names that are no numbers only their count is known."""
    left: list[CardFacts] = []
    for word in dict.fromkeys(word.partition(".")[0] for word in words):
        number = int(word) if word.isdigit() else len(left)
        if number >= len(cards):
            break  # what follows an impossible number does not count either
        left.append(cards[number])
    return left


def processor_here(cpu: CpuFacts, memory: MemoryFacts, read_bytes_s: float, threads: int, count: int = 1) -> MachineCards:
    """The processor, of which `threads` compute and read so many bytes a second, as a card, or as `count` that share it."""
    features = cpu.features or frozenset()
    each = next((flops for name, flops in _CPU_FLOPS_A_CYCLE if name in features), 16.0)
    gpu = processor(
        cpu.model or "processor", memory.available_bytes / GIB / count, read_bytes_s / 1e9 / count,
        threads * each * _CPU_GHZ / count, _CPU_GHZ, "measured bandwidth; cycles of its instruction sets",
    )  # fmt: skip
    return MachineCards((gpu,) * count, (0,) * count, link_of((gpu,) * count), _free_gib(memory))


def _gpu(card: CardFacts, notes: list[str]) -> Gpu:
    assert card.memory_bytes is not None
    try:
        known = find_gpu(card.name)
    except SettingsError:
        notes.append(f"{card.name} is not in the table of cards: it is planned for by its memory, and its speed is a guess")
        rates = {"bf16": _UNKNOWN_TFLOPS, "fp8": 0.0, "int8": 0.0}
        known = Gpu(card.name, card.vendor, 0.0, _UNKNOWN_GB_S, 0.8, rates, 1.8, 4, 8, None, False, "guess")
    free = card.memory_bytes if card.free_bytes is None else card.free_bytes
    return replace(known, memory_gib=free / GIB)


def _free_gib(memory: MemoryFacts | None) -> float | None:
    return None if memory is None else memory.available_bytes / GIB
