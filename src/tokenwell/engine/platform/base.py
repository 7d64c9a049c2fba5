"""What the engine asks of a device. Owns no tensors; knows nothing of models."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from tokenwell.wire.messages import Choice


class Platform(ABC):
    """One device of one kind. Subclasses answer from the vendor's runtime; nobody else calls it."""

    name: str
    device: torch.device
    default_num_seqs: int
    default_batched_tokens: int
    kv_share: float  # of the memory that is free after loading, the KV cache takes at most this
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

    def kv_bytes(self, needed: int) -> tuple[int, str]:
        """Bytes for the KV cache when `needed` would let every slot reach the full window, and why that many."""
        free = self.free_bytes()
        share = int(free * self.kv_share / self.sharers)
        if needed <= share:
            return needed, "every slot can reach the full window"
        shared = f", shared by {self.sharers} processes" if self.sharers > 1 else ""
        return share, f"{self.kv_share:.0%} of the {free / (1 << 30):.1f} GiB that are free{shared}"
