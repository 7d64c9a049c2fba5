"""What cards can do, as published: memory, bandwidth, products a second, slots. The facts stand in gpus.toml with their sources.

Names are taken as people and drivers write them. Knows nothing of models.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from tokenwell.wire.errors import SettingsError

_MOST_CARDS = 64  # in one `--gpu`
_VENDOR_WORDS = {
    "nvidia": "nvidia", "geforce": "nvidia", "tesla": "nvidia", "quadro": "nvidia", "gtx": "nvidia", "rtx": "nvidia",
    "intel": "intel", "arc": "intel", "amd": "amd", "radeon": "amd", "instinct": "amd", "rx": "amd",
}  # fmt: skip
_KINDS = {"nvidia": "cuda", "intel": "xpu", "amd": "rocm", "cpu": "cpu"}
_EMPTY_WORDS = {
    "r",
    "tm",
    "graphics",
    "gpu",
    "card",
    "tensor",
    "core",
    "generation",
    "edition",
    "series",
    "workstation",
    "oam",
    "hbm",
}


@dataclass(frozen=True)
class Gpu:
    """One card (or processor) as published. Rates are dense."""

    name: str
    vendor: str  # nvidia | intel | amd | cpu
    memory_gib: float  # what the driver offers a program
    bandwidth_gb_s: float  # published
    read_share: float  # of the bandwidth that a large read really gets
    tflops: Mapping[str, float]  # "bf16" (float32 sums), "fp8", "int8"; 0: the card has no such products
    clock_ghz: float
    pcie_gen: int
    pcie_lanes: int
    nvlink_gb_s: float | None  # both directions together; None: the card cannot have it
    nvlink_bridge: bool  # True: only where a bridge was bought
    source: str
    capability: float | None = None  # NVIDIA's compute capability
    math_share: float = 1.0  # of products, beside what engines reach on NVIDIA's cards

    @property
    def kind(self) -> str:
        """The engine's word for the kind of device."""
        return _KINDS[self.vendor]

    @property
    def has_fp8(self) -> bool:
        """Whether it multiplies fp8 values, rather than widening them first."""
        return self.tflops["fp8"] > 0

    @property
    def read_bytes_s(self) -> float:
        """Bytes a second that a large read gets."""
        return self.bandwidth_gb_s * 1e9 * self.read_share


@dataclass(frozen=True)
class _Row:
    gpu: Gpu
    size_gb: float
    variant: bool
    words: frozenset[str]
    spellings: frozenset[str]


def find_gpu(name: str) -> Gpu:
    """The card of that name: "rtx 4090", "RTX4090", "arc b580", "a100-80gb", "NVIDIA H200".

    Raises SettingsError that names the nearest known cards, or all that the name could mean.
    """
    wanted, size_gb, vendor = _read_name(name)
    spelling = _spelling(name)
    exact = [row for row in _rows() if spelling in row.spellings]
    if len(exact) == 1:
        return exact[0].gpu
    rows = [
        row for row in _rows()
        if wanted and wanted <= row.words and size_gb in (None, row.size_gb) and vendor in (None, row.gpu.vendor)
    ]  # fmt: skip
    # The shortest name that has all the words: "4070" is not "4070 Ti". Rare forms only where something asks for them.
    least = min((len(row.words - _forms(row)) for row in rows), default=0)
    rows = [row for row in rows if len(row.words - _forms(row)) == least]
    rows = [row for row in rows if not row.variant] or rows
    if len(rows) == 1:
        return rows[0].gpu
    if rows:
        raise SettingsError(f"--gpu {name!r} can be {_either([row.gpu.name for row in rows])}: say which")
    raise SettingsError(f"--gpu {name!r} is not a known card. The nearest known: {_either(_nearest(name))}")


def find_gpus(text: str) -> tuple[Gpu, ...]:
    """Cards as `--gpu` tells them: "B580x2", "2x b580", "rtx 3090, rtx 3060". Raises SettingsError like `find_gpu`."""
    found: list[Gpu] = []
    for part in re.split(r"[,;+]", text):
        count, name = 1, part.strip()
        behind = re.fullmatch(r"(.+?)\s*[x×*]\s*(\d{1,2})", name, re.IGNORECASE)
        before = re.fullmatch(r"(\d{1,2})\s*[x×*]\s*(.+)", name, re.IGNORECASE)
        if before:
            count, name = int(before[1]), before[2]
        elif behind and not _is_known(name):
            count, name = int(behind[2]), behind[1]
        if not name or not 0 < count <= _MOST_CARDS:
            raise SettingsError(f"--gpu {text!r}: say a card's name, and at most {_MOST_CARDS} of it, as in 'B580x2'")
        found += [find_gpu(name)] * count
    if len(found) > _MOST_CARDS:
        raise SettingsError(f"--gpu {text!r} are {len(found)} cards; at most {_MOST_CARDS} can be planned for")
    return tuple(found)


def known_gpus() -> tuple[Gpu, ...]:
    """All cards of the table, in its order."""
    return tuple(row.gpu for row in _rows())


def processor(name: str, memory_gib: float, bandwidth_gb_s: float, bf16_gflops: float, clock_ghz: float, source: str) -> Gpu:
    """A CPU as a card of its own: measured bandwidth (so nothing is taken off it), arithmetic of its cores together."""
    rates = {"bf16": bf16_gflops / 1000, "fp8": 0.0, "int8": 0.0}
    return Gpu(name, "cpu", memory_gib, bandwidth_gb_s, 1.0, rates, clock_ghz, 0, 0, None, False, source)


def _read_name(name: str) -> tuple[frozenset[str], float | None, str | None]:
    """The words of a name that tell cards apart, the memory size it names, and the vendor."""
    text = name.lower().replace("(r)", " ").replace("(tm)", " ")
    sizes = re.findall(r"(?<![\d.])(\d+)\s*-?\s*(?:gib|gb|g)\b", text)
    text = re.sub(r"(?<![\d.])\d+\s*-?\s*(?:gib|gb|g)\b", " ", text)
    text = re.sub(r"\b(sxm|hbm)\d?e?\b", r" \1 ", text)
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(\d)(ti)?(s|super)\b", r"\1 \2 super", text))
    vendors = {_VENDOR_WORDS[word] for word in words if word in _VENDOR_WORDS}
    told = frozenset(word for word in words if word not in _VENDOR_WORDS and word not in _EMPTY_WORDS)
    vendor = vendors.pop() if len(vendors) == 1 else None
    # "A100 80": a number behind the model's that is a size without its unit.
    sizes = sizes or [word for word in told if word.isdigit() and len(told) > 2 and word in ("16", "32", "40", "80")]
    size_gb = float(sizes[-1]) if sizes else None
    return told - ({sizes[-1]} if sizes else set()), size_gb, vendor


def _forms(row: _Row) -> frozenset[str]:
    return row.words & {"pcie", "sxm", "nvl", "pro", "blackwell", "ada"}


def _spelling(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _is_known(name: str) -> bool:
    spelling = _spelling(name)
    return any(spelling in row.spellings for row in _rows())


def _nearest(name: str) -> list[str]:
    """The four known names that look most like it."""
    asked = _spelling(re.sub(r"\b(nvidia|geforce|intel|amd|radeon)\b", "", name.lower()))
    short = {_spelling(re.sub(r" \d+GB", "", row.gpu.name)): row.gpu.name for row in reversed(_rows()) if not row.variant}
    likeness = {known: _likeness(asked, short_name) for short_name, known in short.items()}
    return sorted(likeness, key=lambda known: -likeness[known])[:4]


def _likeness(asked: str, known: str) -> float:
    """Between 0 and 1; a vendor's prefix that is left out does not count."""
    bare = re.sub(r"^(rtx|rx|arcpro|arc)", "", known)
    return max(difflib.SequenceMatcher(None, asked, one).ratio() for one in (known, bare))


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


@cache
def _rows() -> tuple[_Row, ...]:
    table = tomllib.loads(files("tokenwell.plan").joinpath("gpus.toml").read_text(encoding="utf-8"))
    return tuple(_row(entry, table["family"][entry["family"]]) for entry in table["gpus"])


def _row(entry: Mapping[str, Any], family: Mapping[str, Any]) -> _Row:
    bf16 = float(entry["bf16"])
    gpu = Gpu(
        name=entry["name"], vendor=family["vendor"], memory_gib=float(entry["gib"]), bandwidth_gb_s=float(entry["gb_s"]),
        read_share=family["read_share"],
        tflops={"bf16": bf16, "fp8": bf16 * family["fp8_ratio"], "int8": bf16 * family["int8_ratio"]},
        clock_ghz=float(entry["ghz"]), pcie_gen=entry["pcie"][0], pcie_lanes=entry["pcie"][1],
        nvlink_gb_s=entry.get("nvlink"), nvlink_bridge=entry.get("bridge", False),
        source=f"{entry.get('source') or family['source']}; read share: {family['read_source']}"
        + (f"; math share: {family['math_source']}" if "math_source" in family else ""),
        capability=entry.get("capability", family.get("capability")), math_share=family.get("math_share", 1.0),
    )  # fmt: skip
    names = [entry["name"], *entry.get("also", ())]
    return _Row(
        gpu, float(entry["gb"]), entry.get("variant", False), _read_name(entry["name"])[0], frozenset(map(_spelling, names))
    )
