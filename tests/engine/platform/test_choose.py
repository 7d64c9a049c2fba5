"""Which device is taken, and what is said about it."""

from __future__ import annotations

import pytest
import torch

from tokenwell.engine.platform import cpu, cuda, rocm, xpu
from tokenwell.engine.platform.choose import open_platform
from tokenwell.wire.errors import SettingsError


@pytest.fixture
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cuda, rocm, xpu):
        monkeypatch.setattr(module, "reason_not", lambda index: "nothing is plugged in")


def test_the_cpu_is_taken_where_nothing_else_is(no_cards: None) -> None:
    platform, choice = open_platform("auto", threads=1)
    assert isinstance(platform, cpu.CpuPlatform)
    assert choice.what == "device" and choice.chosen == platform.describe()
    assert choice.reason == "no cuda, no rocm, no xpu; --device NAME tells why"


def test_asking_by_name_tells_why_not(no_cards: None) -> None:
    for name in ("cuda", "cuda:1", "rocm", "xpu"):
        with pytest.raises(SettingsError, match=f"--device {name} cannot be used: nothing is plugged in"):
            open_platform(name, threads=1)
    assert open_platform("cpu", threads=1)[1].reason == "asked for"


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cpu:1", "cuda:-1"])
def test_devices_that_are_none(no_cards: None, device: str) -> None:
    with pytest.raises(SettingsError, match="--device"):
        open_platform(device, threads=1)


@pytest.mark.parametrize(
    ("capability", "dtype", "told"), [((7, 5), "bfloat16", True), ((7, 5), "float16", False), ((8, 0), "bfloat16", False)]
)
def test_a_card_without_units_for_bfloat16_says_so(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: str, told: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen, reason = cuda.CudaPlatform(0).compute_dtype(getattr(torch, dtype))
    assert chosen == getattr(torch, dtype)
    assert ("--dtype float16" in reason) == told
