"""How cards are joined, what passing values between them costs, and how a model can lie on them. Knows nothing of models.

A collective is counted as a ring: every card sends and receives 2 (n - 1) / n of the values (NCCL's documentation of bus
bandwidth), after a delay that the kind of path sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenwell.plan.gpus import Gpu

# GB/s a lane and direction: PCI-SIG, after line coding; of that about four fifths carry data.
_LANE_GB_S = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
_PACKET_SHARE = 0.8

# One all-reduce of a few kilobytes between two cards, microseconds.
_NVLINK_US = 10.0  # measured on two H200: 6.3 in one shot, 22 by NCCL in a graph (docs/log.md)
_PEER_US = 15.0  # assumed: over PCIe without the host's memory, between NVLink and what follows
_STAGED_US = 30.0  # NCCL through the host's memory, usual on GeForce
_ONECCL_US = 200.0  # fitted to the A770 pair of the field report: 65 all-reduces cost about 13 ms
# Through the host's memory values are copied down, added and copied up by turns: of a slot's 25 GB/s some 6 are left
# (what NCCL's own tests are known to print on GeForce cards without peer to peer).
_STAGED_SHARE = 0.25
_ONECCL_SHARE = 0.1  # assumed: oneCCL through host memory lets the processor add
_PROCESS_US = 150.0  # assumed: gloo between processes of one machine
_DATA_CENTRE = ("A100", "A10", "A40", "H100", "H200", "B200", "L4", "T4", "V100", "MI", "RTX A", "RTX PRO", "RTX 6000")


@dataclass(frozen=True)
class Link:
    """The path between the cards of one machine; the narrowest counts."""

    pcie_gen: int
    pcie_lanes: int
    p2p: bool  # cards reach each other's memory; False also where it is unknown
    nvlink_gb_s: float | None  # both directions together
    vendor: str  # of the cards; "mixed" where they differ
    reason: str

    @property
    def pcie_bytes_s(self) -> float:
        """Bytes a second between a card and the host, in one direction."""
        return _LANE_GB_S[self.pcie_gen] * self.pcie_lanes * _PACKET_SHARE * 1e9 if self.pcie_gen else float("inf")

    @property
    def bytes_s(self) -> float:
        """Bytes a second from card to card, in one direction."""
        if self.nvlink_gb_s:
            return self.nvlink_gb_s / 2 * _PACKET_SHARE * 1e9
        staged = _ONECCL_SHARE if self.vendor == "intel" else _STAGED_SHARE
        return self.pcie_bytes_s * (1 if self.p2p else staged)

    @property
    def delay_us(self) -> float:
        """Of one small exchange between two cards."""
        if self.nvlink_gb_s:
            return _NVLINK_US
        if self.vendor == "cpu":
            return _PROCESS_US
        if self.p2p:
            return _PEER_US
        return _ONECCL_US if self.vendor == "intel" else _STAGED_US

    def all_reduce_ms(self, size: float, cards: int) -> float:
        """Adding `size` bytes up over `cards`. The delay hardly grows with them: a public figure of four RTX 3090 without
        NVLink (Gemma 4 31B int4 by vLLM 0.19, 77 tok/s) leaves 33 us for each of its 120 sums."""
        if cards < 2:
            return 0.0
        return self.delay_us / 1e3 + 2 * (cards - 1) / cards * size / self.bytes_s * 1e3

    def pass_ms(self, size: float) -> float:
        """Handing `size` bytes from one card to the next."""
        return self.delay_us / 1e3 + size / self.bytes_s * 1e3

    def __str__(self) -> str:
        if self.nvlink_gb_s:
            return f"NVLink {self.nvlink_gb_s:g} GB/s"
        if self.vendor == "cpu":
            return "the machine's memory"
        return f"PCIe {self.pcie_gen} x{self.pcie_lanes}, {'peer to peer' if self.p2p else 'through host memory'}"


def link_of(
    gpus: Sequence[Gpu], pcie_gen: int | None = None, pcie_lanes: int | None = None, p2p: bool | None = None,
    nvlink: bool | None = None,
) -> Link:  # fmt: skip
    """The link between these cards. What is not told is taken from the cards' own slots and from what their drivers allow.

    None for `p2p`: data-centre cards have it, GeForce drivers refuse it, for Arc and Radeon it is not relied on.
    """
    vendors = {gpu.vendor for gpu in gpus}
    vendor = vendors.pop() if len(vendors) == 1 else "mixed"
    same = len({gpu.name for gpu in gpus}) == 1
    speeds = [gpu.nvlink_gb_s for gpu in gpus if gpu.nvlink_gb_s]
    can = same and len(speeds) == len(gpus) > 1
    joined = can and (nvlink if nvlink is not None else not any(gpu.nvlink_bridge for gpu in gpus))
    if p2p is None:
        p2p = joined or (vendor in ("nvidia", "amd") and all(gpu.name.startswith(_DATA_CENTRE) for gpu in gpus))
        reason = "cards with NVLink" if joined else "data-centre cards" if p2p else "peer to peer is not known to work"
    else:
        reason = "told" if p2p else "no peer to peer, as told"
    return Link(
        pcie_gen=min([pcie_gen or 6, *(gpu.pcie_gen for gpu in gpus)]),
        pcie_lanes=min([pcie_lanes or 16, *(gpu.pcie_lanes for gpu in gpus)]), p2p=p2p,
        nvlink_gb_s=min(speeds) if joined else None, vendor=vendor, reason=reason,
    )  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A model on cards. With replicas every one has the same cards and answers requests of its own."""

    kind: str  # "single" | "replicas" | "layers" | "tensor"
    gpus: tuple[Gpu, ...]  # of all replicas together
    tp: int = 1  # cards that share every layer
    replicas: int = 1
    offload: str = "none"  # what stays in the host's memory: "none" | "lookup" | "experts"
    shares: tuple[int, ...] = ()  # "layers": how many layers each card has

    @property
    def cards(self) -> tuple[Gpu, ...]:
        """The cards of one replica; of unlike replicas the slowest one's."""
        if self.kind == "replicas":
            return (min(self.gpus, key=lambda gpu: gpu.read_bytes_s),)
        return self.gpus[: len(self.gpus) // self.replicas]
