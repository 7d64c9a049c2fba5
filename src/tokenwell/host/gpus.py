"""The graphics cards of a machine: what they are, who drives them, and how they are connected. Knows no torch.

`cards()` is what a plan for "this machine" starts from. All is read without root and without waking a card's compute engines.
Sources: the kernel's Documentation/gpu/{amdgpu,xe} and its sysfs files as named below; on Alchemist and Battlemage, and on
AMD's cards since Vega, the GPU sits behind a switch on the card itself: the GPU's own link is inside the card and says
nothing (2.5 GT/s x1 on Intel's, always full on AMD's), the link to the slot is that of the switch's upper port.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tokenwell.host.card_names import AMD, INTEL, NVIDIA, VENDORS, Family, Product, family_of, listed_name, product_of
from tokenwell.host.machine import Machine, Node
from tokenwell.host.nvidia import NvidiaCard, NvidiaFacts, card_information, read_nvidia
from tokenwell.host.pci import BRIDGE_CLASS, Link, PciDevice, generation, link_gb_s, read_devices

_GIB = 2**30
_CLASSES = (0x0300, 0x0302, 0x0380, 0x1200)  # VGA, 3D controller, other display, processing accelerator
_BUSY_PERCENT = 30
_CPU_VENDOR_AMD = 0x1022
_DRIVERS = {"intel": ("xe", "i915"), "nvidia": ("nvidia",), "amd": ("amdgpu",)}  # of families that the table does not have
_SPEEDS = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}


@dataclass(frozen=True)
class CardLink:
    """The way from the slot to the card; unknown values are None."""

    speed_gts: float | None  # now; idle cards lower it
    width: int | None  # now
    card_speed_gts: float | None  # most that the card can do
    card_width: int | None
    slot_speed_gts: float | None  # most that the port above it can do
    slot_width: int | None
    through_chipset: bool | None  # shares the chipset's link with discs and network

    @property
    def usable_speed_gts(self) -> float | None:
        """The rate that card and slot agree on when the card works."""
        known = [speed for speed in (self.card_speed_gts, self.slot_speed_gts) if speed is not None]
        return min(known) if known else self.speed_gts

    @property
    def generation(self) -> int | None:
        """PCIe generation when the card works."""
        return generation(self.usable_speed_gts)

    @property
    def gb_s(self) -> float | None:
        """GB/s in one direction when the card works."""
        return link_gb_s(self.usable_speed_gts, self.width)


@dataclass(frozen=True)
class CardState:
    """What can slow a card down; unknown values are None."""

    power_limit_w: float | None
    default_power_limit_w: float | None
    power_file: str | None  # where the limit is set in microwatts
    clock_limit_mhz: int | None
    rated_clock_mhz: int | None
    clock_file: str | None  # where the limit is set
    performance_level: str | None  # amdgpu
    busy: bool | None
    slowed: bool | None  # by heat or by the power supply
    compute_mode: str | None  # NVIDIA
    mig: bool | None  # NVIDIA


@dataclass(frozen=True)
class CardFacts:
    """One card. Unknown is None."""

    address: str | None  # None where there is no PCI, as on WSL
    vendor: str  # "intel", "nvidia" or "amd"
    vendor_id: int
    device_id: int | None
    name: str
    family: Family | None
    product: Product | None
    integrated: bool
    driver: str | None  # "": none
    driver_version: str | None  # None: the kernel's own
    memory_bytes: int | None
    free_bytes: int | None
    memory_window_bytes: int | None  # the largest BAR
    window_above_4g: bool | None
    resizable_to_bytes: int | None  # the largest size that the card offers for a BAR; often readable by root alone
    link: CardLink
    nodes: Mapping[str, Node | None]  # device files that computing needs -> what is there
    numa_node: int | None
    iommu_group: str | None
    bridges: tuple[str, ...]  # between the card's edge and the processor, the nearest first
    state: CardState
    index: int | None  # NVIDIA's number

    @property
    def drivers(self) -> tuple[str, ...]:
        """The drivers that compute on this card, the best first."""
        return self.family.drivers if self.family else _DRIVERS[self.vendor]

    @property
    def driven(self) -> bool:
        """Whether a driver that computes has the card."""
        return self.driver in self.drivers

    @property
    def usable(self) -> bool:
        """Whether this process can compute on it now, as far as files tell."""
        return self.driven and all(node is not None and node.usable for node in self.nodes.values())


def cards(machine: Machine) -> tuple[CardFacts, ...]:
    """All cards of Intel, NVIDIA and AMD, integrated ones too, in the order of their addresses."""
    return read_cards(machine, read_devices(machine), read_nvidia(machine))


def read_cards(machine: Machine, devices: Mapping[str, PciDevice], nvidia: NvidiaFacts) -> tuple[CardFacts, ...]:
    """As `cards`, from facts that were read already."""
    by_address = {card.address: card for card in nvidia.cards or () if card.address}
    found = [
        _card(machine, device, devices, nvidia, by_address.get(device.address)) for device in devices.values() if _is_card(device)
    ]
    if not any(card.vendor == "nvidia" for card in found):  # WSL, and sandboxes that hide /sys
        found += [_card_without_pci(machine, card) for card in nvidia.cards or ()]
    return tuple(found)


def _is_card(device: PciDevice) -> bool:
    if device.vendor_id not in VENDORS or device.device_id is None or device.class_code not in _CLASSES:
        return False
    # Intel calls its neural engines accelerators too.
    return device.class_code != 0x1200 or device.vendor_id != INTEL or family_of(INTEL, device.device_id) is not None


def _card(
    machine: Machine,
    device: PciDevice,
    devices: Mapping[str, PciDevice],
    nvidia: NvidiaFacts,
    line: NvidiaCard | None,
) -> CardFacts:
    vendor_id, device_id = device.vendor_id or 0, device.device_id or 0
    family = family_of(vendor_id, device_id)
    window = max(device.windows or (), key=lambda window: window.size_bytes, default=None)
    memory, free = _memory(machine, device.folder) if line is None else (line.memory_bytes, line.free_bytes)
    hint = memory or (window.size_bytes if window and window.size_bytes >= _GIB else None)
    product = product_of(vendor_id, device_id, hint)
    information = card_information(machine, device.address) if vendor_id == NVIDIA else {}
    bridges = device.bridges[_switch_ports(device, devices) :]
    index = line.index if line else None
    return CardFacts(
        address=device.address,
        vendor=VENDORS[vendor_id],
        vendor_id=vendor_id,
        device_id=device_id,
        name=_name(machine, device, product, line.name if line else information.get("Model")),
        family=family,
        product=product,
        integrated=_is_integrated(device, devices, family, memory),
        driver=device.driver,
        driver_version=nvidia.driver_version if device.driver == "nvidia" else _module_version(machine, device.driver),
        memory_bytes=memory or (product.memory_gib * _GIB if product else None),
        free_bytes=free,
        memory_window_bytes=window.size_bytes if window else None,
        window_above_4g=window.start >= 2**32 if window and window.start else None,
        resizable_to_bytes=_resizable_to(machine, device),
        link=_card_link(device, devices, product, line),
        nodes=_nodes(machine, device, information, index),
        numa_node=device.numa_node,
        iommu_group=device.iommu_group,
        bridges=bridges,
        state=_state(machine, device, line),
        index=index,
    )


def _card_without_pci(machine: Machine, line: NvidiaCard) -> CardFacts:
    speeds = _SPEEDS.get(line.link_generation or 0), _SPEEDS.get(line.max_link_generation or 0)
    paths = ["/dev/dxg"] if machine.node("/dev/dxg") else [f"/dev/nvidia{line.index}", "/dev/nvidiactl", "/dev/nvidia-uvm"]
    device_id = line.device_id
    return CardFacts(
        address=line.address,
        vendor="nvidia",
        vendor_id=NVIDIA,
        device_id=device_id,
        name=line.name,
        family=None if device_id is None else family_of(NVIDIA, device_id),
        product=None if device_id is None else product_of(NVIDIA, device_id, line.memory_bytes),
        integrated=False,
        driver="nvidia",
        driver_version=line.driver_version,
        memory_bytes=line.memory_bytes,
        free_bytes=line.free_bytes,
        memory_window_bytes=None,
        window_above_4g=None,
        resizable_to_bytes=None,
        link=CardLink(speeds[0], line.link_width, speeds[1], line.max_link_width, None, None, None),
        nodes={path: machine.node(path) for path in paths},
        numa_node=None,
        iommu_group=None,
        bridges=(),
        state=_nvidia_state(line),
        index=line.index,
    )


def _name(machine: Machine, device: PciDevice, product: Product | None, driver_says: str | None) -> str:
    vendor_id, device_id = device.vendor_id or 0, device.device_id or 0
    said = driver_says or (machine.text(f"{device.folder}/product_name") if vendor_id == AMD else None)
    if said:
        return said if product is None or vendor_id != AMD or said.startswith("AMD") else product.name
    if product:
        return product.name
    listed = listed_name(machine, vendor_id, device_id)
    brand = {INTEL: "Intel", NVIDIA: "NVIDIA", AMD: "AMD"}[vendor_id]
    return f"{brand} {listed}" if listed else f"{brand} card {vendor_id:04x}:{device_id:04x}"


def _is_integrated(device: PciDevice, devices: Mapping[str, PciDevice], family: Family | None, memory: int | None) -> bool:
    """Graphics inside a processor: Intel's has no port above it, AMD's hangs on the processor and borrows its memory."""
    if device.vendor_id == INTEL:
        return family is None and not device.bridges
    if device.vendor_id == AMD and device.class_code != 0x1200 and family is None:
        above = devices.get(device.bridges[0]) if device.bridges else None
        return above is not None and above.vendor_id == _CPU_VENDOR_AMD and (memory is None or memory <= 4 * _GIB)
    return False


def _memory(machine: Machine, folder: str) -> tuple[int | None, int | None]:
    """(total, free) bytes of the card's memory as the driver tells it; Intel's drivers tell nobody what is free."""
    total = machine.number(f"{folder}/mem_info_vram_total")  # amdgpu
    used = machine.number(f"{folder}/mem_info_vram_used")
    if total:
        return total, None if used is None else max(0, total - used)
    tiles = [name for name in machine.names(folder) or () if re.fullmatch(r"tile\d{1,2}", name)]  # xe
    sizes = [machine.number(f"{folder}/{tile}/physical_vram_size_bytes") for tile in tiles]
    if sizes and all(sizes):
        return sum(size or 0 for size in sizes), None
    return machine.number(f"{folder}/lmem_total_bytes"), None  # i915, where it has it


def _module_version(machine: Machine, driver: str | None) -> str | None:
    return machine.text(f"/sys/module/{driver}/version") if driver else None


def _resizable_to(machine: Machine, device: PciDevice) -> int | None:
    masks = [machine.number(f"{device.folder}/resource{window.number}_resize", 16) for window in device.windows or ()]
    largest = max((mask.bit_length() for mask in masks if mask), default=0)  # bit n stands for 2^n MiB
    return 2 ** (largest - 1 + 20) if largest else None


# ---------------------------------------------------------------- the link


def _switch_ports(device: PciDevice, devices: Mapping[str, PciDevice]) -> int:
    """How many ports of a switch on the card itself lie above the GPU: two, or none."""
    above = [devices.get(address) for address in device.bridges[:3]]
    own = [port for port in above[:2] if port and port.class_code == BRIDGE_CLASS and port.vendor_id == device.vendor_id]
    return 2 if len(own) == 2 and len(device.bridges) >= 3 else 0


def _card_link(device: PciDevice, devices: Mapping[str, PciDevice], product: Product | None, line: NvidiaCard | None) -> CardLink:
    ports = _switch_ports(device, devices)
    edge = devices[device.bridges[ports - 1]] if ports else device
    outside = [devices.get(address) for address in device.bridges[ports:]]
    slot = outside[0].link if outside and outside[0] else Link(None, None, None, None)
    own = edge.link
    if device.vendor_id == INTEL and not ports:  # a virtual machine hides the switch, and the GPU's own link says nothing
        own = slot = Link(None, None, None, None)
    card_speed, card_width = own.max_speed_gts, own.max_width
    if product and product.link:
        card_speed, card_width = _SPEEDS[product.link[0]], product.link[1]
    if line:
        card_speed, card_width = card_speed or _SPEEDS.get(line.max_link_generation or 0), card_width or line.max_link_width
    # Both ends of a link have one rate and one width; an end that says less than the other is mistaken.
    return CardLink(
        speed_gts=_larger(own.speed_gts, slot.speed_gts) or (_SPEEDS.get(line.link_generation or 0) if line else None),
        width=_shared_width(own, slot, line),
        card_speed_gts=card_speed,
        card_width=card_width,
        slot_speed_gts=slot.max_speed_gts,
        slot_width=slot.max_width,
        through_chipset=_through_chipset(outside),
    )


def _larger(left: float | None, right: float | None) -> float | None:
    return max((value for value in (left, right) if value is not None), default=None)


def _shared_width(own: Link, slot: Link, line: NvidiaCard | None) -> int | None:
    known = [width for width in (own.width, slot.width) if width is not None]
    return max(known) if known else line.link_width if line else None


def _through_chipset(outside: list[PciDevice | None]) -> bool | None:
    """Whether the way leads through the board's chipset: Intel's has its ports at 00:1b to 00:1d, AMD's is a switch."""
    if not outside or any(port is None for port in outside):
        return None
    ports = [port for port in outside if port]
    root = ports[-1]
    if root.vendor_id == INTEL:
        return bool(re.search(r":00:1[bcd]\.", root.address))
    return any(port.vendor_id == _CPU_VENDOR_AMD for port in ports[:-1])


# ---------------------------------------------------------------- device files and state


def _nodes(machine: Machine, device: PciDevice, information: Mapping[str, str], index: int | None) -> dict[str, Node | None]:
    """The device files that computing needs, whether they are there or not."""
    if device.vendor_id == NVIDIA:
        minor = information.get("Device Minor", "" if index is None else str(index))
        paths = [f"/dev/nvidia{minor}"] if minor.isdigit() else []
        paths += ["/dev/nvidiactl", "/dev/nvidia-uvm"]
    else:
        names = machine.names(f"{device.folder}/drm") or ()
        paths = [f"/dev/dri/{name}" for name in names if re.fullmatch(r"renderD\d{1,4}", name)]
        paths += ["/dev/kfd"] if device.vendor_id == AMD else []
    return {path: machine.node(path) for path in paths}


def _state(machine: Machine, device: PciDevice, line: NvidiaCard | None) -> CardState:
    if line:
        return _nvidia_state(line)
    folder = device.folder
    sensors = [f"{folder}/hwmon/{name}" for name in machine.names(f"{folder}/hwmon") or ()]
    busy = machine.number(f"{folder}/gpu_busy_percent")
    limit, rated, clock_file = _clocks(machine, folder)
    power_limit, power_file = _power(machine, sensors, "power1_cap", "power1_max")
    return CardState(
        power_limit_w=power_limit,
        default_power_limit_w=_power(machine, sensors, "power1_cap_default", "power1_rated_max")[0],
        power_file=power_file,
        clock_limit_mhz=limit,
        rated_clock_mhz=rated,
        clock_file=clock_file,
        performance_level=machine.text(f"{folder}/power_dpm_force_performance_level"),
        busy=None if busy is None else busy >= _BUSY_PERCENT,
        slowed=None,
        compute_mode=None,
        mig=None,
    )


def _nvidia_state(line: NvidiaCard) -> CardState:
    return CardState(
        power_limit_w=line.power_limit_w,
        default_power_limit_w=line.default_power_limit_w,
        power_file=None,
        clock_limit_mhz=None,
        rated_clock_mhz=None,
        clock_file=None,
        performance_level=None,
        busy=None if line.busy_percent is None else line.busy_percent >= _BUSY_PERCENT,
        slowed=line.slowed,
        compute_mode=line.compute_mode,
        mig=line.mig,
    )


def _clocks(machine: Machine, folder: str) -> tuple[int | None, int | None, str | None]:
    """(limit, rated, file of the limit) in MHz: xe's first graphics engine, or i915's."""
    places = [(f"{folder}/tile0/gt0/freq0/max_freq", f"{folder}/tile0/gt0/freq0/rp0_freq")]
    screens = [f"{folder}/drm/{name}" for name in machine.names(f"{folder}/drm") or () if re.fullmatch(r"card\d{1,4}", name)]
    places += [(f"{screen}/gt_max_freq_mhz", f"{screen}/gt_RP0_freq_mhz") for screen in screens]
    for limit_file, rated_file in places:
        limit, rated = machine.number(limit_file), machine.number(rated_file)
        if limit and rated:
            return limit, rated, limit_file
    return None, None, None


def _power(machine: Machine, sensors: list[str], *names: str) -> tuple[float | None, str | None]:
    """(watts, file) of the first of these that a sensor has."""
    for path in (f"{sensor}/{name}" for sensor in sensors for name in names):
        microwatts = machine.number(path)
        if microwatts:
            return microwatts / 1e6, path
    return None, None
