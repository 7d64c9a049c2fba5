"""What kernels are told about a card that is not here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tokenwell.engine.platform import accelerator


@pytest.mark.parametrize(("count", "on_intel"), [(1, 4), (2, 8), (4, 16), (8, 32), (16, 32)])
def test_warps_by_what_their_registers_hold(count: int, on_intel: int) -> None:
    assert accelerator.warps(count, torch.device("cuda", 0)) == accelerator.warps(count, torch.device("cpu")) == count
    assert accelerator.warps(count, torch.device("xpu", 1)) == on_intel


def test_the_least_product(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {0: [16, 32], 1: [8, 16, 32]}  # a B580 and an A770
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(sub_group_sizes=cards[device.index]))
    assert accelerator.least_columns(torch.device("xpu", 0)) == 16
    assert accelerator.least_columns(torch.device("xpu", 1)) == 8
    assert accelerator.least_columns(torch.device("cuda", 0)) == accelerator.least_columns(torch.device("cpu")) == 1
