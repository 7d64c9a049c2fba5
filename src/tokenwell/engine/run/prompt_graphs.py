"""Steps with prompts, recorded for a few sizes: one launch for the host, which otherwise is slower than the card for questions
that add some hundred tokens to a conversation.

Rows are those with one token, then a fixed number of places for prompts, then a row of padding; places that are not needed have
no tokens, or are padding as in `graphs`.

    rows     0 ..          S ..                 S + PROMPTS
            | singles     | prompts            | padding |
    tokens  | one each    | theirs, neighbours | up to T |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from tokenwell.engine.models.config import LayerFacts
from tokenwell.engine.platform.accelerator import packed_bytes, refresh, unpack
from tokenwell.engine.run.batch import UNKNOWN, Batch, Work, ids_of, positions_of, spans_of
from tokenwell.engine.run.graphs import DecodeGraphs, StepMemory
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.run.spare import SpareRecordings
from tokenwell.wire.capacity import RECORDED_TOKENS

Forward = Callable[[Batch], torch.Tensor]  # to hidden states of the kept tokens

PROMPTS = 8  # rows with more than one token
SIZES = (32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048)  # tokens of prompts; up to some hundred padding costs next to nothing
SINGLES = (0, 8, 32)  # rows with one token, and as many as there can be
_PAIRS = 1 << 35  # of queries and keys, times channels of heads, a layer; see most_pairs
_SLOW_HEADS = 256  # channels; attention that reads pages takes twice as long for a channel of larger heads


class Shape(NamedTuple):
    """Places for rows with one token, and for tokens of the others."""

    singles: int
    tokens: int

    def __str__(self) -> str:
        return f"prompts of {self.tokens} tokens beside {self.singles} rows"


def most_pairs(layers: Sequence[LayerFacts]) -> int:
    """Pairs of prompts' queries and keys beyond which attention that gathers keys saves more than recording does.

    What it saves grows with the channels that see all keys, and what recording saves with the number of layers.
    """
    channels = [layer.heads * layer.head_dim * (2 if layer.head_dim > _SLOW_HEADS else 1) for layer in layers if not layer.window]
    return _PAIRS * len(layers) // max(1, sum(channels))


class PromptGraphs:
    """Recordings by shape, in spare memory."""

    what = "steps with prompts"

    def __init__(
        self, forward: Forward, memory: StepMemory, decode: DecodeGraphs, max_num_seqs: int, most_tokens: int, pairs: int,
        planned_bytes: Callable[[], int], ranks: Ranks,
    ) -> None:  # fmt: skip
        """`most_tokens` and `pairs`: of the prompts of a step at most; the rest is `SpareRecordings`'s."""
        # Padding is a row, which has no more tokens than others may have.
        self.sizes = tuple(size for size in SIZES if size <= min(most_tokens, memory.max_model_len))
        self._singles = tuple(sorted({*(size for size in SINGLES if size < max_num_seqs), max_num_seqs}))
        self._forward = forward
        self._memory = memory
        self._padding_slot = memory.tables.padding_slot
        self._pairs = pairs
        most = Shape(self._singles[-1], max(self.sizes, default=0))
        self._inputs = torch.zeros(packed_bytes(self._arrays(most, ())), dtype=torch.uint8, device=memory.last_tokens.device)
        self._recordings = SpareRecordings(self._pad, self._step, self._inputs.device, decode, planned_bytes, ranks)

    def shape_for(self, work: Sequence[Work]) -> Shape | None:
        """The smallest shape that holds `work`, single tokens first; None where a step is better launched."""
        prompts = [item for item in work if item.count > 1]
        tokens = sum(item.count for item in prompts)
        if not prompts or len(prompts) > PROMPTS or not self.sizes or tokens > self.sizes[-1]:
            return None
        if sum(item.count * (item.start + item.count) for item in prompts) > self._pairs:
            return None
        singles = next(size for size in self._singles if size >= len(work) - len(prompts))
        shape = Shape(singles, next(size for size in self.sizes if size >= tokens))
        return shape if sum(shape) <= RECORDED_TOKENS else None

    @property
    def made(self) -> list[Shape]:
        """The recorded shapes."""
        return self._recordings.made

    def has(self, work: Sequence[Work]) -> bool:
        """Whether the shape of `work` is recorded."""
        return self.shape_for(work) in self.made

    def run(self, work: Sequence[Work]) -> tuple[torch.Tensor, list[int]] | None:
        """Queue the work: hidden states, good until the next call, and which of them is the last token's of each of `work`.

        None when it has to be launched.
        """
        shape = self.shape_for(work)
        if shape is None:
            return None
        recording = self._recordings.get(shape)
        if recording is None:
            return None
        self._fill(shape, work)
        recording.replay()
        singles = sum(item.count == 1 for item in work)
        return recording.output, [*range(singles), *range(shape.singles, shape.singles + len(work) - singles)]

    def record_next(self) -> bool:
        """Try to record a shape that is not recorded yet, those with fewest single tokens first; False if there is none."""
        shapes = (Shape(singles, size) for singles in self._singles for size in self.sizes if singles + size <= RECORDED_TOKENS)
        shape = next(filter(self._recordings.is_open, shapes), None)
        if shape is None:
            return False
        self._recordings.record(shape)
        return True

    def _pad(self, shape: Shape) -> None:
        self._fill(shape, ())

    def _fill(self, shape: Shape, work: Sequence[Work]) -> None:
        """The work into the inputs."""
        arrays = self._arrays(shape, work)
        refresh(arrays, self._inputs[: packed_bytes(arrays)])

    def _arrays(self, shape: Shape, work: Sequence[Work]) -> list[np.ndarray]:
        """ids, positions and token_rows [tokens], slots and lengths [rows], starts [rows + 1], kept tokens [rows - 1]."""
        singles = [item for item in work if item.count == 1]
        prompts = list(work[len(singles) :])
        tokens, rows = sum(shape), shape.singles + PROMPTS + 1
        ids, positions = np.zeros(tokens, dtype=np.int64), np.zeros(tokens, dtype=np.int64)
        slots, lengths = np.full(rows, self._padding_slot, dtype=np.int32), np.ones(rows, dtype=np.int32)
        counts = np.zeros(rows, dtype=np.int32)
        counts[: shape.singles] = 1
        for first, some in ((0, singles), (shape.singles, prompts)):
            if not some:
                continue
            spans = spans_of(some)
            here, there = slice(first, first + sum(item.count for item in some)), slice(first, first + len(some))
            ids[here], positions[here] = ids_of(some), positions_of(spans)
            slots[there] = [span.slot for span in spans]
            lengths[there] = [span.length for span in spans]
            counts[there] = [span.count for span in spans]
        used = shape.singles + sum(item.count for item in prompts)
        counts[-1] = lengths[-1] = tokens - used
        positions[used:] = np.arange(tokens - used)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        kept = np.maximum(starts[1:-1] - 1, 0).astype(np.int64)
        return [ids, positions, np.repeat(np.arange(rows, dtype=np.int32), counts), slots, lengths, starts, kept]

    def _step(self, shape: Shape) -> torch.Tensor:
        arrays = self._arrays(shape, ())
        ids, positions, token_rows, slots, lengths, starts, keep = unpack(arrays, self._inputs)
        memory = self._memory
        ids = torch.where(ids == UNKNOWN, memory.last_tokens[slots.index_select(0, token_rows).to(torch.int64)], ids)
        kept = len(keep)
        each = torch.arange(kept + 1, dtype=torch.int32, device=ids.device)
        tail = Batch(
            ids=ids[keep], positions=positions[keep], slots=slots[:kept], starts=each, lengths=lengths[:kept],
            token_rows=each[:kept], singles=kept, longest=memory.max_model_len, most=1, spans=(), groups=memory.groups,
            caches=memory.caches, keep=each[:kept].to(torch.int64), keep_all=True,
        )  # fmt: skip
        batch = Batch(
            ids=ids, positions=positions, slots=slots, starts=starts, lengths=lengths, token_rows=token_rows,
            singles=shape.singles, longest=memory.max_model_len, most=shape.tokens, spans=(), groups=memory.groups,
            caches=memory.caches, keep=keep, keep_all=False, tail=tail,
        )  # fmt: skip
        return self._forward(batch)
