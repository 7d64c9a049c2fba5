"""Linear maps: y = x W^T + b. A weight format is an object that a Linear has; the plain one is here.

Splits over ranks: "column" splits output rows (nothing to exchange afterwards), "row" splits input columns and sums the
results over the ranks, None keeps the whole map on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import cpu_linear
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights import shard
from tokenwell.engine.weights.source import Source

Split = Literal["column", "row"] | None


class Weight(Protocol):
    """How a matrix is stored and multiplied."""

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        ...

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [tokens, in] -> [tokens, out]"""
        ...


class PlainWeight:
    """A dense matrix [out, in] in the compute dtype, multiplied by a kernel of ours where one serves it."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self._prepared = cpu_linear.prepare(matrix) if cpu_linear.reason_not(matrix) is None else None

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes

    def apply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self._prepared is not None:
            return cpu_linear.linear(x, self._prepared, bias)
        return functional.linear(x, self.matrix, bias)


@dataclass(frozen=True)
class Part:
    """One checkpoint tensor inside a fused weight: `name`.weight [rows, in]; `keep` are this rank's rows."""

    name: str
    rows: int
    keep: tuple[int, int]

    @property
    def kept(self) -> int:
        """Rows on this rank."""
        return self.keep[1] - self.keep[0]


class Linear:
    """A linear map of one layer, on this rank."""

    def __init__(self, weight: Weight, bias: torch.Tensor | None, ranks: Ranks, reduce: bool = False) -> None:
        self.weight = weight
        self.bias = bias
        self.ranks = ranks
        self.reduce = reduce

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, in on this rank] -> [tokens, out on this rank]"""
        y = self.weight.apply(x, self.bias)
        return self.ranks.all_reduce(y) if self.reduce else y

    @classmethod
    def load(
        cls, source: Source, ranks: Ranks, name: str, inputs: int, outputs: int, *, bias: bool = False, split: Split = None
    ) -> Linear:
        """Read `<name>.weight` [outputs, inputs] and, if asked for, `<name>.bias` [outputs]."""
        if split == "row":
            matrix = source.tensor(f"{name}.weight", (outputs, inputs), shard_dim=1)
            # The bias is added once, not once a rank.
            vector = source.tensor(f"{name}.bias", (outputs,)) if bias else None
            return cls(PlainWeight(matrix), vector if ranks.rank == 0 else None, ranks, reduce=ranks.world > 1)
        rows = 0 if split == "column" else None
        matrix = source.tensor(f"{name}.weight", (outputs, inputs), shard_dim=rows)
        vector = source.tensor(f"{name}.bias", (outputs,), shard_dim=rows) if bias else None
        return cls(PlainWeight(matrix), vector, ranks)

    @classmethod
    def load_fused(cls, source: Source, ranks: Ranks, parts: Sequence[Part], inputs: int, *, bias: bool = False) -> Linear:
        """Several maps of the same input as one: the parts' rows one after the other, each cut to what this rank keeps."""
        total = sum(part.kept for part in parts)
        matrix = source.empty((total, inputs))
        vector = source.empty((total,)) if bias else None
        offset = 0
        for part in parts:
            end = offset + part.kept
            source.read_into(matrix[offset:end], f"{part.name}.weight", (part.rows, inputs), rows=part.keep)
            if vector is not None:
                source.read_into(vector[offset:end], f"{part.name}.bias", (part.rows,), rows=part.keep)
            offset = end
        return cls(PlainWeight(matrix), vector, ranks)


def even_part(name: str, rows: int, ranks: Ranks) -> Part:
    """The part of a matrix whose rows are dealt evenly to the ranks."""
    return Part(name, rows, shard.even(rows, ranks.rank, ranks.world))
