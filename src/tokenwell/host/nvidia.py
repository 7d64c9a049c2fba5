"""What NVIDIA's driver says of its cards: /proc/driver/nvidia and `nvidia-smi`. Knows nothing of PCI or of other vendors.

Sources: nvidia-smi(1) and `nvidia-smi --help-query-gpu` (every field asked for exists since driver 450).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokenwell.host.machine import Machine, whole_number

_QUERIED = (
    "index,pci.bus_id,name,driver_version,memory.total,memory.free,utilization.gpu,power.limit,power.default_limit,"
    "pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,pcie.link.width.max,"
    "clocks_throttle_reasons.hw_slowdown,compute_mode,mig.mode.current,pci.device_id"
)
_FIELDS = _QUERIED.split(",")
QUERY = ("nvidia-smi", f"--query-gpu={_QUERIED}", "--format=csv,noheader,nounits")
PEERS = ("nvidia-smi", "topo", "-p2p", "r")
TOPOLOGY = ("nvidia-smi", "topo", "-m")
_PROC = "/proc/driver/nvidia"
_MIB = 2**20
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_BRANCH = re.compile(r"\b(\d{3}\.\d{1,3}(?:\.\d{1,3})?)\b")


@dataclass(frozen=True)
class NvidiaCard:
    """One line of nvidia-smi; what it does not know is None."""

    index: int
    address: str | None  # as in /sys, in lower case
    name: str
    driver_version: str | None
    memory_bytes: int | None
    free_bytes: int | None
    busy_percent: int | None
    power_limit_w: float | None
    default_power_limit_w: float | None
    link_generation: int | None
    max_link_generation: int | None
    link_width: int | None
    max_link_width: int | None
    slowed: bool | None  # by heat or by the power supply
    compute_mode: str | None
    mig: bool | None
    device_id: int | None  # of PCI


@dataclass(frozen=True)
class NvidiaFacts:
    """The driver and its cards."""

    driver_version: str | None  # of the kernel module that is loaded
    open_module: bool | None  # whether it is the open one
    mismatch: bool  # libraries and kernel module are of different versions
    cards: tuple[NvidiaCard, ...] | None  # None: nvidia-smi is missing, or gives no answer
    peers: Mapping[tuple[int, int], bool]  # pairs of indices -> whether one reads the other's memory directly
    nvlinks: frozenset[tuple[int, int]]  # pairs of indices that are joined by NVLink


def read_nvidia(machine: Machine) -> NvidiaFacts:
    """Ask the driver; programs are only run where it is loaded, or on WSL, where it is Windows' own."""
    text = machine.text(f"{_PROC}/version")
    version = _BRANCH.search(text or machine.text("/sys/module/nvidia/version") or "")
    if version is None and not any(machine.node(path) for path in ("/dev/dxg", "/dev/nvidiactl")):
        return NvidiaFacts(None, None, False, None, {}, frozenset())
    output = machine.run(*QUERY)
    cards = _cards(output)
    several = cards is not None and len(cards) > 1
    words = _matrix(machine.run(*PEERS)) if several else {}
    return NvidiaFacts(
        driver_version=version[1] if version else cards[0].driver_version if cards else None,
        open_module=None if text is None else "Open Kernel Module" in text,
        mismatch="version mismatch" in (output or "").lower(),
        cards=cards,
        peers={pair: word == "OK" for pair, word in words.items() if word not in ("U", "X")},
        nvlinks=frozenset(pair for pair, word in _matrix(machine.run(*TOPOLOGY)).items() if re.fullmatch(r"NV\d+", word))
        if several
        else frozenset(),
    )


def card_information(machine: Machine, address: str) -> Mapping[str, str]:
    """What /proc says of one card, "Model" and "Device Minor" among it; empty where the driver does not have the card."""
    lines = (machine.text(f"{_PROC}/gpus/{address}/information") or "").splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _cards(output: str | None) -> tuple[NvidiaCard, ...] | None:
    if output is None:
        return None
    cards = []
    for line in output.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) == len(_FIELDS) and (index := whole_number(values[0])) is not None:
            cards.append(_card(index, dict(zip(_FIELDS, values, strict=True))))
    return tuple(cards) if cards or "No devices were found" in output else None


def _card(index: int, values: Mapping[str, str]) -> NvidiaCard:
    def whole(name: str) -> int | None:
        return whole_number(values[name])

    def mib(name: str) -> int | None:
        count = whole(name)
        return None if count is None else count * _MIB

    def known(name: str) -> str | None:
        return None if not values[name] or values[name].strip("[]") in ("N/A", "Not Supported", "Unknown Error") else values[name]

    bus = re.fullmatch(r"(?:0000)?([0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7])", values["pci.bus_id"])
    slowed, mig = known("clocks_throttle_reasons.hw_slowdown"), known("mig.mode.current")
    return NvidiaCard(
        index=index,
        address=bus[1].lower() if bus else None,
        name=values["name"],
        driver_version=known("driver_version"),
        memory_bytes=mib("memory.total"),
        free_bytes=mib("memory.free"),
        busy_percent=whole("utilization.gpu"),
        power_limit_w=_watts(values["power.limit"]),
        default_power_limit_w=_watts(values["power.default_limit"]),
        link_generation=whole("pcie.link.gen.current"),
        max_link_generation=whole("pcie.link.gen.max"),
        link_width=whole("pcie.link.width.current"),
        max_link_width=whole("pcie.link.width.max"),
        slowed=None if slowed is None else slowed == "Active",
        compute_mode=known("compute_mode"),
        mig=None if mig is None else mig == "Enabled",
        device_id=_device_id(values["pci.device_id"]),
    )


def _device_id(text: str) -> int | None:
    both = whole_number(text, 16)  # 0x20B210DE: device, then vendor
    return None if both is None else both >> 16 & 0xFFFF


def _watts(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d{1,5}(\.\d{1,3})?", text) else None


def _matrix(output: str | None) -> dict[tuple[int, int], str]:
    """(row, column) -> word of the tables that `nvidia-smi topo` prints, each pair once and the smaller index first."""
    found = {}
    for line in _COLOURS.sub("", output or "").splitlines():
        words = line.split()
        row = re.fullmatch(r"GPU(\d{1,3})", words[0]) if words else None
        if row is None or (len(words) > 1 and words[1].startswith("GPU")):  # a heading
            continue
        for column, word in enumerate(words[1:]):
            if column > int(row[1]):
                found[int(row[1]), column] = word
    return found
