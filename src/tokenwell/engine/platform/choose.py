"""Which device the engine runs on."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from tokenwell.engine.platform.base import Platform
from tokenwell.host.cpu import read_cpu
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.messages import Choice

# In order of preference; each module has reason_not(index) -> str | None and open(index) -> Platform.
_KINDS = {
    "cuda": "tokenwell.engine.platform.cuda",
    "rocm": "tokenwell.engine.platform.rocm",
    "xpu": "tokenwell.engine.platform.xpu",
    "cpu": "tokenwell.engine.platform.cpu",
}


def open_platform(device: str, threads: int | None = None, card: int = 0) -> tuple[Platform, Choice]:
    """The platform for `device` ("auto", "cpu", "cuda", "cuda:1", "rocm", "xpu"), and why it was taken.

    `card` counts on from the card that `device` names; the CPU is one device whatever it says.
    Raises SettingsError when a device that was asked for by name, or by number, is not there.
    """
    torch.set_num_threads(threads or read_cpu().compute_threads[0])
    if device == "auto":
        passed_over: dict[str, str] = {}
        for kind, module_name in _KINDS.items():
            module = importlib.import_module(module_name)
            reason = module.reason_not(0)
            if reason is None:
                platform = _open_card(module, device, 0, card, threads)
                missing = ", ".join(f"no {name}" for name in passed_over)
                why = f"{missing}; --device NAME tells why" if missing else "first in order of preference"
                return platform, Choice("device", platform.describe(), why)
            passed_over[kind] = reason
        raise SettingsError("no usable device: " + "; ".join(f"no {name}: {why}" for name, why in passed_over.items()))
    kind, _, index_text = device.partition(":")
    if kind not in _KINDS or (index_text and not index_text.isdigit()):
        raise SettingsError(f"--device {device!r} is not known; use auto, {', '.join(_KINDS)} or KIND:INDEX such as cuda:1")
    module = importlib.import_module(_KINDS[kind])
    platform = _open_card(module, device, int(index_text or 0), card, threads)
    return platform, Choice("device", platform.describe(), "asked for")


def _open_card(module: ModuleType, device: str, index: int, card: int, threads: int | None) -> Platform:
    if module.__name__ != _KINDS["cpu"]:
        index += card
    reason = module.reason_not(index)
    if reason is not None:
        wanted = f"--device {device}" + (f" from card {index} on" if card else "")
        raise SettingsError(f"{wanted} cannot be used: {reason}")
    platform: Platform = module.open_device(index, threads)
    return platform
