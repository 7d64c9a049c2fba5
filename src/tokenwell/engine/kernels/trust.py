"""Which families of Triton kernels may be used: all that the device can run, less those that gave a wrong answer at load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tokenwell.engine.platform import accelerator

FAMILIES = ("norms", "gated", "front", "embed", "per_layer", "gemv", "fp8", "int4", "experts", "router", "sampler")

_against: dict[str, str] = {}


def reason_not(family: str, device: torch.device) -> str | None:
    """Why the kernels of a family must not be used on `device`; None when they may."""
    return accelerator.kernels_reason_not(device) or _against.get(family)


def distrust(family: str, why: str) -> None:
    """From now on what the family does is done by plain torch."""
    assert family in FAMILIES, family
    _against[family] = why


def distrusted() -> dict[str, str]:
    """The families that are not used, and why."""
    return dict(_against)


@contextmanager
def plain(*families: str) -> Iterator[None]:
    """Meanwhile these families (all, when none is named) are not used."""
    before = dict(_against)
    for family in families or FAMILIES:
        _against.setdefault(family, "compared with plain torch")
    try:
        yield
    finally:
        _against.clear()
        _against.update(before)
