"""What is free on a card whose driver tells it, does not tell it, or tells it wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tokenwell.engine.platform import memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("told", "free"),
    [(5 * GIB, 5 * GIB), (None, 9 * GIB), (12 * GIB, 9 * GIB)],
    ids=["others hold 4 GiB", "it cannot tell", "it does not count what torch holds"],
)
def test_free_bytes_of_an_intel_card(monkeypatch: pytest.MonkeyPatch, told: int | None, free: int) -> None:
    def tell(device: torch.device) -> tuple[int, int]:
        if told is None:
            raise RuntimeError("The device doesn't support querying the available free memory.")
        return told, 12 * GIB

    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(total_memory=12 * GIB))
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.xpu, "mem_get_info", tell)
    assert memory.free_bytes(torch.device("xpu", 0)) == free
