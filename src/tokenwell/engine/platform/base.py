"""What the engine asks of a device. Owns no tensors; knows nothing of models."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from tokenwell.wire.capacity import Defaults
from tokenwell.wire.messages import Choice


class Platform(ABC):
    """One device of one kind. Subclasses answer from the vendor's runtime; nobody else calls it."""

    name: str
    device: torch.device
    defaults: Defaults  # what it does when nothing is asked for
    sharers = 1  # processes that compute side by side on this device

    @abstractmethod
    def describe(self) -> str:
        """The device in words, for the log."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory that can still be allocated on the device."""

    @abstractmethod
    def synchronise(self) -> None:
        """Wait until everything queued on the device is done."""

    def compute_dtype(self, checkpoint: torch.dtype) -> tuple[torch.dtype, str]:
        """The dtype to compute in when none is asked for, and why."""
        return checkpoint, "as config.json says"

    def suit(self, weights_bytes: int) -> Choice | None:
        """Adapt to a model of this size, unless the user has said how; what was chosen and why."""
        return None
