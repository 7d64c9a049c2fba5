"""Everything about a machine that a check may want, read once. Knows not what is good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenwell.host.gpus import CardFacts, read_cards
from tokenwell.host.limits import LimitFacts, read_limits
from tokenwell.host.machine import Machine, User
from tokenwell.host.network import listening_ports
from tokenwell.host.nvidia import NvidiaFacts, read_nvidia
from tokenwell.host.pci import read_devices, redirects_peers
from tokenwell.host.software import SoftwareFacts, read_software
from tokenwell.host.storage import FolderFacts, read_folder
from tokenwell.host.system import SystemFacts, read_system


@dataclass(frozen=True)
class Survey:
    """A machine at one moment."""

    system: SystemFacts
    pci_visible: bool
    cards: tuple[CardFacts, ...]
    nvidia: NvidiaFacts
    peers: Mapping[tuple[str, str], str]  # pairs of addresses -> how they reach each other: "nvlink", "pcie" or "not"
    redirecting: tuple[str, ...] | None  # bridges that send peers' traffic up to the processor; None: not root
    limits: LimitFacts
    software: SoftwareFacts
    folder: FolderFacts
    port: int
    ports: frozenset[int] | None
    environment: Mapping[str, str]
    user: User
    unseen: tuple[str, ...]  # what exists and may not be seen

    @property
    def withheld_cards(self) -> tuple[CardFacts, ...]:
        """Cards that /sys shows in a container, and whose device files only others of their make have there."""
        if self.system.container is None:
            return ()
        given = {card.vendor for card in self.cards if card.nodes and all(card.nodes.values())}
        return tuple(card for card in self.cards if card.vendor in given and None in card.nodes.values())

    @property
    def working_cards(self) -> tuple[CardFacts, ...]:
        """Cards to compute on: not the processor's graphics, and not those that a container was not given."""
        withheld = self.withheld_cards
        return tuple(card for card in self.cards if not card.integrated and card not in withheld)


def read_survey(machine: Machine, folder: str, port: int) -> Survey:
    """Look at everything once. `folder`: where the model is or will be. Takes well under a second where nothing hangs."""
    devices = read_devices(machine)
    nvidia = read_nvidia(machine)
    cards = read_cards(machine, devices, nvidia)
    bridges = dict.fromkeys(bridge for card in cards if not card.integrated for bridge in card.bridges)
    redirects = {bridge: redirects_peers(machine, devices[bridge]) for bridge in bridges if bridge in devices}
    by_index = {card.index: card.address for card in cards if card.index is not None and card.address}
    pairs = {
        (by_index[left], by_index[right]): "nvlink" if (left, right) in nvidia.nvlinks else "pcie" if direct else "not"
        for (left, right), direct in nvidia.peers.items()
        if left in by_index and right in by_index
    }
    return Survey(
        system=read_system(machine),
        pci_visible=bool(devices),
        cards=cards,
        nvidia=nvidia,
        peers=pairs,
        redirecting=None if None in redirects.values() else tuple(bridge for bridge, yes in redirects.items() if yes),
        limits=read_limits(machine),
        software=read_software(
            machine, frozenset(card.family.firmware for card in cards if card.family and card.family.firmware)
        ),
        folder=read_folder(machine, folder),
        port=port,
        ports=listening_ports(machine),
        environment=machine.environment,
        user=machine.user,
        unseen=tuple(machine.unseen),
    )
