"""What a check says. Knows neither checks nor machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "unknown", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("ok", "unknown", "warn", "fail")  # from good to bad


@dataclass(frozen=True)
class Finding:
    """One result. fail: it cannot work. warn: it works, but slower or only until something happens. unknown: cannot be seen."""

    check: str  # a stable word
    level: Level
    sentence: str
    fix: str | None = None  # the exact command; None where there is none, or only a screwdriver helps
    card: str | None = None  # its PCI address


def gib(size_bytes: float) -> str:
    """A size as people read it."""
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if size_bytes >= 2**shift:
            size = size_bytes / 2**shift
            return f"{size:.0f} {unit}" if size >= 100 else f"{f'{size:.1f}'.removesuffix('.0')} {unit}"
    return f"{size_bytes / 2**10:.0f} KiB"
