"""Checks of how cards are plugged in: memory windows, links, ways between cards. Pure: facts in, findings out.

Sources: intel/compute-runtime's FAQ and issues 872, 933 and 997 (no card with a small window under xe), NCCL's guide (ACS).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tokenwell.doctor.finding import Finding, Level, gib
from tokenwell.host.gpus import CardFacts, CardLink
from tokenwell.host.pci import generation, link_gb_s
from tokenwell.host.survey import Survey

_FIRMWARE_SETUP = "sudo systemctl reboot --firmware-setup"
_WHOLE = 0.9  # of the memory: some of it is the driver's and never behind the window
_HALF = 0.5
_WITHOUT_RESIZING = frozenset({"Maxwell", "Pascal", "Volta", "Turing"})  # NVIDIA has Resizable BAR since Ampere


def check_cards(survey: Survey) -> Iterator[Finding]:
    """Which cards there are, and whether they are alike."""
    cards = survey.working_cards
    if not cards:
        if survey.pci_visible:
            yield Finding("cards", "ok", "There is no graphics card to compute on: models run on the processor.")
        else:
            yield Finding("cards", "unknown", "The PCI devices cannot be seen here, and no driver speaks of a card.")
        return
    names = ", ".join(f"{card.name} ({gib(card.memory_bytes) if card.memory_bytes else 'memory unknown'})" for card in cards)
    withheld = len(survey.withheld_cards)
    kept = f"; {withheld} more that the host has were not given to this container" if withheld else ""
    alike = len({(card.name, card.memory_bytes) for card in cards}) == 1
    note = "" if alike else "; unlike cards take replicas or shares by memory, not tensor parallel"
    yield Finding("cards", "ok", f"{names}{note}{kept}.")


def check_memory_window(survey: Survey) -> Iterator[Finding]:
    """Resizable BAR and Above-4G decoding, from the size and place of the window."""
    for card in survey.working_cards:
        if card.address is None or survey.system.wsl:
            continue  # Windows owns the card
        window, memory = card.memory_window_bytes, card.memory_bytes
        if window is None or memory is None:
            what = "memory windows" if window is None else "memory"
            yield Finding("resizable_bar", "unknown", f"The {what} of {card.name} cannot be seen.", None, card.address)
        elif card.window_above_4g is None:
            sentence = (
                f"The firmware found no room for the memory window of {card.name} ({gib(window)}); switch on Above 4G decoding."
            )
            yield Finding("resizable_bar", "fail", sentence, _FIRMWARE_SETUP, card.address)
        elif window >= _WHOLE * memory:
            sentence = f"The processor sees all of {card.name}: a window of {gib(window)} for {gib(memory)}."
            yield Finding("resizable_bar", "ok", sentence, None, card.address)
        else:
            yield _small_window(survey, card, window, memory)


def _small_window(survey: Survey, card: CardFacts, window: int, memory: int) -> Finding:
    seen = f"the processor sees {gib(window)} of {gib(memory)} of {card.name}"
    if card.vendor == "nvidia" and card.family and card.family.name in _WITHOUT_RESIZING:
        sentence = f"The processor sees {gib(window)} of {card.name}, as of all {card.family.name} cards."
        return Finding("resizable_bar", "ok", sentence, None, card.address)
    others = [other for other in survey.working_cards if other.vendor == "nvidia"]
    if card.vendor == "nvidia" and len(others) == 1:
        sentence = f"Resizable BAR is off ({seen}); a single NVIDIA card does not need it."
        return Finding("resizable_bar", "ok", sentence, None, card.address)
    refused = card.driver == "xe"
    level: Level = "fail" if refused else "warn"
    if card.resizable_to_bytes is not None and card.resizable_to_bytes <= window:
        sentence = f"{card.name} offers no larger window: {seen}; newer firmware of the card may."
        return Finding("resizable_bar", level, sentence, None, card.address)
    switches = "Resizable BAR" if card.window_above_4g else "Above 4G decoding and Resizable BAR"
    harm = "loading and transfers are slow" if card.vendor != "nvidia" else "the cards cannot reach each other's memory"
    harm = "Intel's compute runtime refuses the card" if refused else harm
    state = "off" if window <= 2**28 else "incomplete"
    sentence = f"Resizable BAR is {state}: {seen}, so {harm}; switch on {switches} in the firmware."
    return Finding("resizable_bar", level, sentence, _FIRMWARE_SETUP, card.address)


# ---------------------------------------------------------------- the link


def check_link(survey: Survey) -> Iterator[Finding]:
    """PCIe generation and width against what the card can do. A low rate of an idle card is how it saves power."""
    for card in survey.working_cards:
        if not survey.system.wsl:
            yield _link_finding(card)


def _link_finding(card: CardFacts) -> Finding:
    link = card.link
    now, best = link.gb_s, link_gb_s(link.card_speed_gts, link.card_width)
    if link.width is None or now is None:
        return Finding("pcie_link", "unknown", f"The PCIe link of {card.name} cannot be seen.", None, card.address)
    rates = f"{_named(link.usable_speed_gts, link.width)} ({now:.1f} GB/s)"
    way = " through the chipset" if link.through_chipset else ""
    if best is None or now > _HALF * best:
        stuck = _stuck(card, link)
        return stuck or Finding("pcie_link", "ok", f"{card.name} has {rates}{way}.", None, card.address)
    of = f"of {_named(link.card_speed_gts, link.card_width)} ({best:.1f} GB/s)"
    sentence = f"{card.name} has {rates} {of}{way}: {_cause(link)}."
    return Finding("pcie_link", "warn", sentence, None, card.address)


def _stuck(card: CardFacts, link: CardLink) -> Finding | None:
    """A card at work should have raised its rate."""
    agreed, now = link.usable_speed_gts, link.speed_gts
    if not card.state.busy or agreed is None or now is None or now >= agreed:
        return None
    sentence = f"{card.name} is at work, but its link stays at {now:g} of {agreed:g} GT/s."
    return Finding("pcie_link", "warn", sentence, f"sudo lspci -vv -s {card.address} | grep -E 'LnkCap|LnkSta'", card.address)


def _cause(link: CardLink) -> str:
    if link.card_width and link.width and link.width < link.card_width:
        if link.slot_width is not None and link.slot_width <= link.width:
            return f"its slot is wired x{link.slot_width}, so put it into a wider one"
        return "reseat it, and look for a riser, or for another slot that takes its lanes"
    return "its slot is of an older generation, or set to one in the firmware"


def _named(speed_gts: float | None, width: int | None) -> str:
    number = generation(speed_gts)
    return f"PCIe {number}.0 x{width}" if number else f"PCIe x{width}"


# ---------------------------------------------------------------- between cards


def check_peers(survey: Survey) -> Iterator[Finding]:
    """Whether cards of one make can reach each other's memory: P2P, NVLink, and ACS on the way."""
    for vendor in dict.fromkeys(card.vendor for card in survey.working_cards):
        cards = [card for card in survey.working_cards if card.vendor == vendor]
        if len(cards) > 1:
            yield _peer_finding(survey, cards)


def _peer_finding(survey: Survey, cards: list[CardFacts]) -> Finding:
    addresses = [card.address or "" for card in cards]
    known = [survey.peers.get(pair) for pair in combinations(addresses, 2)]
    if set(known) == {"nvlink"}:
        return Finding("peer_access", "ok", "NVLink joins all cards.")
    if "not" in known:
        some = "Only some of the cards reach" if set(known) != {"not"} else "The driver lets no card reach"
        sentence = f"{some} another's memory directly: replicas or a split by layers beat tensor parallel."
        return Finding("peer_access", "warn", sentence)
    if survey.redirecting:
        ports = ", ".join(survey.redirecting)
        sentence = f"ACS on {ports} sends traffic between cards through the processor, which slows tensor parallel down."
        fix = " && ".join(f"sudo setpci -s {port} ECAP_ACS+0x6.w=0000" for port in survey.redirecting)
        return Finding("peer_access", "warn", sentence, fix)
    if None not in known:
        return Finding("peer_access", "ok", "The cards reach each other's memory directly.")
    nodes = {card.numa_node for card in cards}
    far = " They hang on different processors." if len(nodes - {None}) > 1 else ""
    if survey.redirecting is None:
        likely = " (an IOMMU is on, which brings it along)" if survey.system.iommu else ""
        sentence = f"Whether the cards reach each other directly is unknown: only root sees ACS{likely}.{far}"
        return Finding("peer_access", "unknown", sentence, "sudo tokenwell doctor")
    return Finding(
        "peer_access",
        "unknown",
        f"No ACS is in the way between the cards; only a measurement tells whether they reach each other.{far}",
    )
