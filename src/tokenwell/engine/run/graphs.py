"""Decode steps that are recorded once for a few batch sizes and replayed: one launch for the host instead of hundreds.

A recording reads its rows from one small buffer, which the host fills before each replay. Rows that fill up a size have the
tables' padding slot, so they read and write nothing that anybody needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tokenwell.engine.attention.spec import LayerCache, Shared
from tokenwell.engine.platform.accelerator import Recording, packed_bytes, refresh, unpack
from tokenwell.engine.run.batch import UNKNOWN, Batch, GroupBatch, Work
from tokenwell.engine.run.tables import PageTables
from tokenwell.wire.capacity import sizes_up_to

Forward = Callable[[Batch], torch.Tensor]  # to logits [rows, vocabulary]


@dataclass(frozen=True)
class StepMemory:
    """What all steps of a worker read and write."""

    groups: tuple[GroupBatch, ...]
    caches: Sequence[LayerCache]  # by layer
    tables: PageTables
    last_tokens: torch.Tensor  # [slots] int64: what was sampled last
    max_model_len: int


class DecodeGraphs:
    """Recordings by batch size, made when a size is first needed."""

    what = "steps"

    def __init__(self, forward: Forward, memory: StepMemory, max_num_seqs: int) -> None:
        self.sizes = sizes_up_to(max_num_seqs)
        self._forward = forward
        self._memory = memory
        self._padding_slot = memory.tables.padding_slot
        self.device = device = memory.last_tokens.device
        self._host = self._arrays(max_num_seqs)
        self._inputs = torch.zeros(packed_bytes(self._host), dtype=torch.uint8, device=device)
        refresh(self._host, self._inputs)  # a step before the first rows is one of padding
        self._rows = torch.arange(max_num_seqs + 1, dtype=torch.int32, device=device)
        self._all = torch.arange(max_num_seqs, device=device)
        self._made: dict[int, Recording[torch.Tensor]] = {}

    def _arrays(self, size: int) -> list[np.ndarray]:
        """ids, positions, slots and lengths of `size` padding rows."""
        return [
            np.zeros(size, dtype=np.int64),
            np.zeros(size, dtype=np.int64),
            np.full(size, self._padding_slot, dtype=np.int32),
            np.ones(size, dtype=np.int32),
        ]

    @property
    def pool(self) -> object | None:
        """The memory that recordings share, once there is one."""
        return next(iter(self._made.values())).pool if self._made else None

    @property
    def missing(self) -> list[int]:
        """The sizes that are not recorded yet."""
        return [size for size in self.sizes if size not in self._made]

    def size_for(self, rows: int) -> int:
        """The smallest recorded size that holds so many rows."""
        return next(size for size in self.sizes if size >= rows)

    def has(self, work: Sequence[Work]) -> bool:
        """Whether the size for `work` is recorded."""
        return self.size_for(len(work)) in self._made

    def run(self, work: Sequence[Work]) -> torch.Tensor:
        """Queue one token for each of `work`: logits [rows, vocabulary], good until the next call."""
        size = self.size_for(len(work))
        self.fill(work)
        if size not in self._made:
            self.record(size)
        recording = self._made[size]
        recording.replay()
        return recording.output[: len(work)]

    def record(self, size: int) -> None:
        """Record one batch size, unless that was done. What the inputs say is computed on the way."""
        if size in self._made:
            return
        self.step(size)  # compiles kernels and lets libraries allocate what they keep
        self._made[size] = Recording(lambda: self.step(size), self._inputs.device, self.pool)

    def run_padding(self, size: int) -> None:
        """Compute one batch size with padding rows, for what that compiles."""
        self.step(size)

    def record_next(self) -> bool:
        """Record the smallest size that is not recorded yet; False if there is none."""
        if not self.missing:
            return False
        self.fill(())  # the rows of the last step may be others' by now
        self.record(self.missing[0])
        return True

    def fill(self, work: Sequence[Work]) -> None:
        """The rows into the inputs; places behind them become padding."""
        ids, positions, slots, lengths = self._host
        count = len(work)
        known = [item.row.tokens[item.start] if item.start < len(item.row.tokens) else UNKNOWN for item in work]
        ids[:count], ids[count:] = known, 0
        positions[:count] = [item.start for item in work]
        slots[:count] = [item.row.slot for item in work]
        positions[count:], slots[count:] = 0, self._padding_slot
        np.add(positions, 1, out=lengths, casting="unsafe")
        refresh(self._host, self._inputs)

    def step(self, size: int, shared: Shared | None = None) -> torch.Tensor:
        """Logits [size, vocabulary] of what the inputs say; rows may share pages."""
        ids, positions, slots, lengths = (tensor[:size] for tensor in unpack(self._host, self._inputs))
        batch = Batch(
            ids=torch.where(ids == UNKNOWN, self._memory.last_tokens[slots], ids), positions=positions, slots=slots,
            starts=self._rows[: size + 1], lengths=lengths, token_rows=self._rows[:size], singles=size,
            longest=self._memory.max_model_len, most=1, spans=(), groups=self._memory.groups, caches=self._memory.caches,
            keep=self._all[:size], keep_all=True, shared=shared,
        )  # fmt: skip
        return self._forward(batch)
