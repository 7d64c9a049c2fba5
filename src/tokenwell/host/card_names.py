"""What is known of graphics cards by their PCI ids: names, families, drivers and the kernels that have them. A table of facts.

Sources: pci.ids (names), include/drm/intel/pciids.h and the commits that drop `force_probe` (Intel: DG2 in 6.2, Battlemage in
6.12, its id e211 in 6.15), the releases of intel/compute-runtime (24.35.30872 is of August 2024; 23.43 of Ubuntu 24.04 lists no
Battlemage or Lunar Lake), NVIDIA's driver release notes (first branch of a family) and CUDA 13's release notes (nothing
older than Turing), AMD's amdgpu in the kernel's history. Memory is the card's as sold. Unknown cards keep their id as name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenwell.host.machine import MIB, Machine

INTEL, NVIDIA, AMD = 0x8086, 0x10DE, 0x1002
VENDORS = {INTEL: "intel", NVIDIA: "nvidia", AMD: "amd"}
_PCI_IDS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids")


@dataclass(frozen=True)
class Family:
    """Cards of one architecture."""

    name: str
    vendor_id: int
    first: int  # device ids, both ends included
    last: int
    drivers: tuple[str, ...]  # that can compute on it, the best first
    kernel: tuple[int, int] | None = None  # first release whose own driver takes it without being asked to
    driver_branch: int | None = None  # first branch of a vendor's own driver
    firmware: str | None = None  # below /lib/firmware, without which the driver gives up
    runtime_build: int | None = None  # first build of Intel's compute runtime that knows it


_I915_XE, _XE, _NV, _AMD = ("i915", "xe"), ("xe",), ("nvidia",), ("amdgpu",)

# The first row that holds an id counts.
FAMILIES = (
    Family("Alchemist", INTEL, 0x4F80, 0x4F88, _I915_XE, (6, 2), firmware="i915/dg2_guc_70.bin"),
    Family("Alchemist", INTEL, 0x5690, 0x56C2, _I915_XE, (6, 2), firmware="i915/dg2_guc_70.bin"),
    Family("Battlemage", INTEL, 0xE200, 0xE2EF, _XE, (6, 12), firmware="xe/bmg_guc_70.bin", runtime_build=30872),
    Family("Ponte Vecchio", INTEL, 0x0BD0, 0x0BEF, _I915_XE),
    Family("Maxwell", NVIDIA, 0x1340, 0x1430, _NV),
    Family("Pascal", NVIDIA, 0x15F0, 0x15FF, _NV),
    Family("Maxwell", NVIDIA, 0x1600, 0x17FF, _NV),
    Family("Volta", NVIDIA, 0x1D81, 0x1DFF, _NV),
    Family("Pascal", NVIDIA, 0x1B00, 0x1D80, _NV),
    Family("Turing", NVIDIA, 0x1E00, 0x1FFF, _NV, driver_branch=410),
    Family("Ampere", NVIDIA, 0x2080, 0x20FF, _NV, driver_branch=450),
    Family("Turing", NVIDIA, 0x2180, 0x21FF, _NV, driver_branch=418),
    Family("Hopper", NVIDIA, 0x2300, 0x23FF, _NV, driver_branch=525),
    Family("Ampere", NVIDIA, 0x2200, 0x25FF, _NV, driver_branch=455),
    Family("Ada", NVIDIA, 0x2600, 0x28FF, _NV, driver_branch=525),
    Family("Blackwell", NVIDIA, 0x2900, 0x31FF, _NV, driver_branch=570),
    Family("Vega 20", AMD, 0x66A0, 0x66AF, _AMD, (5, 0)),
    Family("CDNA", AMD, 0x7388, 0x738F, _AMD, (5, 10)),
    Family("RDNA 1", AMD, 0x7310, 0x734F, _AMD, (5, 4)),
    Family("RDNA 2", AMD, 0x73A0, 0x73FF, _AMD, (5, 11)),
    Family("CDNA 2", AMD, 0x7408, 0x7410, _AMD, (5, 15)),
    Family("RDNA 2", AMD, 0x7420, 0x743F, _AMD, (5, 16)),
    Family("RDNA 3", AMD, 0x7440, 0x749F, _AMD, (6, 1)),
    Family("CDNA 3", AMD, 0x74A0, 0x74BF, _AMD),
    Family("RDNA 4", AMD, 0x7550, 0x75AF, _AMD, (6, 12)),
)


@dataclass(frozen=True)
class Product:
    """A card as it is sold. Several share an id: then the one whose memory is nearest to what was read counts."""

    name: str
    memory_gib: int
    link: tuple[int, int] | None = None  # PCIe generation and lanes, where the card's own answer may be wrong
    kernel: tuple[int, int] | None = None  # where its id came later than its family


PRODUCTS: dict[tuple[int, int], tuple[Product, ...]] = {
    (INTEL, 0x56A0): (Product("Intel Arc A770", 16, (4, 16)), Product("Intel Arc A770 8GB", 8, (4, 16))),
    (INTEL, 0x56A1): (Product("Intel Arc A750", 8, (4, 16)),),
    (INTEL, 0x56A2): (Product("Intel Arc A580", 8, (4, 16)),),
    (INTEL, 0x56A5): (Product("Intel Arc A380", 6, (4, 8)),),
    (INTEL, 0x56A6): (Product("Intel Arc A310", 4, (4, 8)),),
    (INTEL, 0x56C0): (Product("Intel Data Center GPU Flex 170", 16, (4, 16)),),
    (INTEL, 0x56C1): (Product("Intel Data Center GPU Flex 140", 6, (4, 8)),),
    (INTEL, 0xE20B): (Product("Intel Arc B580", 12, (4, 8)),),
    (INTEL, 0xE20C): (Product("Intel Arc B570", 10, (4, 8)),),
    (INTEL, 0xE211): (Product("Intel Arc Pro B60", 24, (5, 8), (6, 15)),),
    (INTEL, 0xE212): (Product("Intel Arc Pro B50", 16, (5, 8)),),
    (NVIDIA, 0x1E07): (Product("NVIDIA GeForce RTX 2080 Ti", 11),),
    (NVIDIA, 0x1EB8): (Product("Tesla T4", 16),),
    (NVIDIA, 0x20B0): (Product("NVIDIA A100-SXM4-40GB", 40),),
    (NVIDIA, 0x20B2): (Product("NVIDIA A100-SXM4-80GB", 80),),
    (NVIDIA, 0x20B5): (Product("NVIDIA A100 80GB PCIe", 80),),
    (NVIDIA, 0x20F1): (Product("NVIDIA A100-PCIE-40GB", 40),),
    (NVIDIA, 0x2203): (Product("NVIDIA GeForce RTX 3090 Ti", 24),),
    (NVIDIA, 0x2204): (Product("NVIDIA GeForce RTX 3090", 24),),
    (NVIDIA, 0x2206): (Product("NVIDIA GeForce RTX 3080", 10),),
    (NVIDIA, 0x2208): (Product("NVIDIA GeForce RTX 3080 Ti", 12),),
    (NVIDIA, 0x220A): (Product("NVIDIA GeForce RTX 3080 12GB", 12),),
    (NVIDIA, 0x2216): (Product("NVIDIA GeForce RTX 3080", 10),),
    (NVIDIA, 0x2230): (Product("NVIDIA RTX A6000", 48),),
    (NVIDIA, 0x2321): (Product("NVIDIA H100 NVL", 94),),
    (NVIDIA, 0x2330): (Product("NVIDIA H100 80GB HBM3", 80),),
    (NVIDIA, 0x2331): (Product("NVIDIA H100 PCIe", 80),),
    (NVIDIA, 0x2335): (Product("NVIDIA H200", 141),),
    (NVIDIA, 0x2484): (Product("NVIDIA GeForce RTX 3070", 8),),
    (NVIDIA, 0x2486): (Product("NVIDIA GeForce RTX 3060 Ti", 8),),
    (NVIDIA, 0x2489): (Product("NVIDIA GeForce RTX 3060 Ti", 8),),
    (NVIDIA, 0x2503): (Product("NVIDIA GeForce RTX 3060", 12),),
    (NVIDIA, 0x2504): (Product("NVIDIA GeForce RTX 3060", 12),),
    (NVIDIA, 0x2684): (Product("NVIDIA GeForce RTX 4090", 24),),
    (NVIDIA, 0x26B1): (Product("NVIDIA RTX 6000 Ada Generation", 48),),
    (NVIDIA, 0x26B9): (Product("NVIDIA L40S", 48),),
    (NVIDIA, 0x2702): (Product("NVIDIA GeForce RTX 4080 SUPER", 16),),
    (NVIDIA, 0x2704): (Product("NVIDIA GeForce RTX 4080", 16),),
    (NVIDIA, 0x2705): (Product("NVIDIA GeForce RTX 4070 Ti SUPER", 16),),
    (NVIDIA, 0x2782): (Product("NVIDIA GeForce RTX 4070 Ti", 12),),
    (NVIDIA, 0x2783): (Product("NVIDIA GeForce RTX 4070 SUPER", 12),),
    (NVIDIA, 0x2786): (Product("NVIDIA GeForce RTX 4070", 12),),
    (NVIDIA, 0x27B8): (Product("NVIDIA L4", 24),),
    (NVIDIA, 0x2803): (Product("NVIDIA GeForce RTX 4060 Ti", 8),),
    (NVIDIA, 0x2805): (Product("NVIDIA GeForce RTX 4060 Ti", 16),),
    (NVIDIA, 0x2882): (Product("NVIDIA GeForce RTX 4060", 8),),
    (NVIDIA, 0x2B85): (Product("NVIDIA GeForce RTX 5090", 32),),
    (NVIDIA, 0x2C02): (Product("NVIDIA GeForce RTX 5080", 16),),
    (NVIDIA, 0x2C05): (Product("NVIDIA GeForce RTX 5070 Ti", 16),),
    (NVIDIA, 0x2D04): (Product("NVIDIA GeForce RTX 5060 Ti", 16),),
    (NVIDIA, 0x2F04): (Product("NVIDIA GeForce RTX 5070", 12),),
    (AMD, 0x73BF): (Product("AMD Radeon RX 6800/6900", 16),),
    (AMD, 0x744C): (
        Product("AMD Radeon RX 7900 XTX", 24),
        Product("AMD Radeon RX 7900 XT", 20),
        Product("AMD Radeon RX 7900 GRE", 16),
    ),
    (AMD, 0x7480): (Product("AMD Radeon RX 7600", 8), Product("AMD Radeon RX 7600 XT", 16)),
    (AMD, 0x747E): (Product("AMD Radeon RX 7800 XT", 16), Product("AMD Radeon RX 7700 XT", 12)),
    (AMD, 0x74A1): (Product("AMD Instinct MI300X", 192),),
    (AMD, 0x7550): (Product("AMD Radeon RX 9070 XT", 16),),
}


def family_of(vendor_id: int, device_id: int) -> Family | None:
    """The family that an id belongs to; None when it is not known."""
    return next((row for row in FAMILIES if row.vendor_id == vendor_id and row.first <= device_id <= row.last), None)


def product_of(vendor_id: int, device_id: int, memory_bytes: int | None) -> Product | None:
    """The card with this id, and the memory that is nearest to what was read, if any was."""
    products = PRODUCTS.get((vendor_id, device_id))
    if not products:
        return None
    if memory_bytes is None:
        return products[0]
    return min(products, key=lambda product: abs(product.memory_gib * 2**30 - memory_bytes))


def listed_name(machine: Machine, vendor_id: int, device_id: int) -> str | None:
    """The name in the machine's own copy of pci.ids: "GA106 [GeForce RTX 3060]" gives "GeForce RTX 3060"."""
    for path in _PCI_IDS:
        data = machine.read(path, 4 * MIB)
        if data is None:
            continue
        text = data.decode("utf-8", "replace")
        vendor = re.search(rf"^{vendor_id:04x}  .*\n((?:[\t#].*\n|\n)*)", text + "\n", re.MULTILINE)
        device = re.search(rf"^\t{device_id:04x}  (.+)$", vendor[1], re.MULTILINE) if vendor else None
        if device:
            inner = re.search(r"\[(.+)\]", device[1])
            return inner[1] if inner else device[1].strip()
    return None
