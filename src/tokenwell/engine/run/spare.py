"""Recordings that live in memory which nobody has planned with: where too little of it is left, their steps are launched.

One is made in an idle moment, or when its step is needed for the second time: the first time launching is faster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

from tokenwell.engine.platform.accelerator import Recording
from tokenwell.engine.platform.memory import peak_bytes, spare_bytes
from tokenwell.engine.run.graphs import DecodeGraphs
from tokenwell.engine.run.parallel import Ranks
from tokenwell.wire.capacity import GIB, RECORDING_BYTES

log = logging.getLogger("tokenwell.engine")

K = TypeVar("K", bound=Hashable)


class SpareRecordings(Generic[K]):
    """Recordings of one kind of step by its shape."""

    def __init__(
        self, pad: Callable[[K], None], step: Callable[[K], torch.Tensor], device: torch.device, decode: DecodeGraphs,
        planned_bytes: Callable[[], int], ranks: Ranks,
    ) -> None:  # fmt: skip
        """`pad` fills a shape's inputs with padding, `step` computes it. `planned_bytes`: what other steps may still take.

        Recordings use the memory of those of `decode`.
        """
        self._pad = pad
        self._step = step
        self._device = device
        self._decode = decode
        self._planned_bytes = planned_bytes
        self._ranks = ranks
        self._made: dict[K, Recording[torch.Tensor]] = {}
        self._wanted: set[K] = set()
        self._too_large: set[K] = set()

    @property
    def made(self) -> list[K]:
        """The recorded shapes."""
        return list(self._made)

    def is_open(self, shape: K) -> bool:
        """Whether a shape is neither recorded nor known to be too large."""
        return shape not in self._made and shape not in self._too_large

    def get(self, shape: K) -> Recording[torch.Tensor] | None:
        """The recording of a shape that is needed now, made at the second time; None: its step is to be launched."""
        if shape not in self._made:
            again = shape in self._wanted
            self._wanted.add(shape)
            if not again or not self.record(shape):
                return None
        return self._made[shape]

    def record(self, shape: K) -> bool:
        """Record a step of padding; False where memory is short."""
        if shape in self._too_large:
            return False
        self._pad(shape)
        # Running it compiles kernels, too, and libraries allocate what they keep.
        needed = peak_bytes(self._device, lambda: self._step(shape)) + RECORDING_BYTES
        spare = spare_bytes(self._device, self._planned_bytes())
        (enough,) = self._ranks.least([int(needed <= spare)])  # what one launches, all do
        if not enough:
            if not self._too_large:
                told = "from %s on, steps are not recorded: that takes %.2f GiB, %.2f are spare"
                log.info(told, shape, needed / GIB, spare / GIB)
            self._too_large.add(shape)
            return False
        pool = next(iter(self._made.values())).pool if self._made else self._decode.pool
        self._made[shape] = Recording(lambda: self._step(shape), self._device, pool)
        return True
