"""The PCI devices of a machine: ids, drivers, memory windows and links. Knows nothing of graphics.

Sources: the kernel's Documentation/ABI/testing/sysfs-bus-pci, include/linux/ioport.h (flags of a window), and the PCI Express
Base Specification for rates. All is readable without root, but for the capabilities in `config` beyond 64 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokenwell.host.machine import Machine, whole_number

DEVICES = "/sys/bus/pci/devices"
BRIDGE_CLASS = 0x0604  # PCI-to-PCI bridge
_MEMORY, _PREFETCHABLE = 0x200, 0x2000  # IORESOURCE_MEM, IORESOURCE_PREFETCH
_WINDOWS = 6  # base address registers of a function
_WIDTHS = (1, 2, 4, 8, 12, 16, 32)  # a sleeping device says 0, 63 or 255
_GENERATIONS = ((2.5, 1), (5.0, 2), (8.0, 3), (16.0, 4), (32.0, 5), (64.0, 6))  # GT/s per lane
_ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_ACS = 0x000D  # extended capability "access control services"
_REDIRECTS = 0x0C  # its control bits "P2P request redirect" and "P2P completion redirect"


@dataclass(frozen=True)
class Link:
    """A device's link towards the processor; unknown values are None."""

    speed_gts: float | None
    width: int | None
    max_speed_gts: float | None
    max_width: int | None


@dataclass(frozen=True)
class Window:
    """A range of addresses behind which the device's memory or registers are (a BAR)."""

    number: int
    start: int  # 0: the firmware found no room for it
    size_bytes: int
    prefetchable: bool


@dataclass(frozen=True)
class PciDevice:
    """One function of a PCI device."""

    address: str
    folder: str  # below /sys/devices
    vendor_id: int | None
    device_id: int | None
    revision: int | None
    class_code: int | None  # class and subclass, as 0x0300 for a display
    driver: str | None  # "": no driver has it; None: cannot be told
    windows: tuple[Window, ...] | None
    link: Link
    bridges: tuple[str, ...]  # addresses towards the processor, the nearest first
    numa_node: int | None
    iommu_group: str | None


def read_devices(machine: Machine) -> Mapping[str, PciDevice]:
    """All PCI devices by address, in the order of their addresses; empty without any, or where /sys is hidden."""
    found = {}
    for address in machine.names(DEVICES) or ():
        folder = machine.target(f"{DEVICES}/{address}")
        if folder is not None and _ADDRESS.fullmatch(address):
            found[address] = _device(machine, address, folder)
    return found


def generation(speed_gts: float | None) -> int | None:
    """The PCIe generation with this rate per lane."""
    return next((number for speed, number in _GENERATIONS if speed == speed_gts), None)


def link_gb_s(speed_gts: float | None, width: int | None) -> float | None:
    """GB/s in one direction, line coding taken off: 8b/10b up to 5 GT/s, 128b/130b above (PCIe Base Specification)."""
    if speed_gts is None or width is None:
        return None
    return speed_gts * width / 8 * (0.8 if speed_gts <= 5 else 128 / 130)


def redirects_peers(machine: Machine, bridge: PciDevice) -> bool | None:
    """Whether the bridge sends what one device says to another up to the processor (ACS); None: only root can see it."""
    config = machine.read(f"{bridge.folder}/config", 4096)
    if config is None or len(config) < 4096:
        return None
    offset, seen = 0x100, set()
    while 0x100 <= offset <= 4088 and offset not in seen:
        seen.add(offset)
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & 0xFFFF == _ACS:
            return bool(int.from_bytes(config[offset + 6 : offset + 8], "little") & _REDIRECTS)
        offset = header >> 20
    return False


def _device(machine: Machine, address: str, folder: str) -> PciDevice:
    class_code = machine.number(f"{folder}/class", 16)
    group = machine.target(f"{folder}/iommu_group")
    numa_node = machine.number(f"{folder}/numa_node")
    return PciDevice(
        address=address,
        folder=folder,
        vendor_id=machine.number(f"{folder}/vendor", 16),
        device_id=machine.number(f"{folder}/device", 16),
        revision=machine.number(f"{folder}/revision", 16),
        class_code=None if class_code is None else class_code >> 8,
        driver=_driver(machine, folder),
        windows=_windows(machine.text(f"{folder}/resource")),
        link=_link(machine, folder),
        bridges=tuple(part for part in reversed(folder.split("/")[:-1]) if _ADDRESS.fullmatch(part)),
        numa_node=numa_node if numa_node is not None and numa_node >= 0 else None,
        iommu_group=group.rpartition("/")[2] if group else None,
    )


def _driver(machine: Machine, folder: str) -> str | None:
    target = machine.target(f"{folder}/driver")
    if target is not None:
        return target.rpartition("/")[2]
    return None if machine.names(folder) is None or f"{folder}/driver" in machine.unseen else ""


def _windows(text: str | None) -> tuple[Window, ...] | None:
    if text is None:
        return None
    windows = []
    for number, line in enumerate(text.splitlines()[:_WINDOWS]):
        values = [whole_number(word, 16) for word in line.split()]
        if len(values) != 3 or any(value is None or value < 0 for value in values):
            return None
        start, end, flags = (value or 0 for value in values)
        if flags & _MEMORY and end > start:
            windows.append(Window(number, start, end - start + 1, bool(flags & _PREFETCHABLE)))
    return tuple(windows)


def _link(machine: Machine, folder: str) -> Link:
    def speed(name: str) -> float | None:
        words = (machine.text(f"{folder}/{name}_link_speed") or "").split()  # "16.0 GT/s PCIe", "Unknown"
        known = {f"{rate:.1f}": rate for rate, _ in _GENERATIONS} | {f"{rate:g}": rate for rate, _ in _GENERATIONS}
        return known.get(words[0]) if words else None

    def width(name: str) -> int | None:
        lanes = machine.number(f"{folder}/{name}_link_width")
        return lanes if lanes in _WIDTHS else None

    return Link(speed("current"), width("current"), speed("max"), width("max"))
