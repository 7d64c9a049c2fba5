"""Token embedding and output head. The embedding is whole on every rank; the head is split by vocabulary where that divides."""

from __future__ import annotations

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import trust
from tokenwell.engine.layers.linear import FEW_TOKENS, Around, PlainWeight, Weight
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.source import Source


class Embedding:
    """A table [vocabulary, dim] that is looked up, its rows times `scale`."""

    def __init__(self, table: torch.Tensor, scale: float = 1.0) -> None:
        self.table = table
        # Rounded to the table's dtype first, as the reference implementation of scaled embeddings does.
        self.scale = None if scale == 1.0 else torch.tensor(scale, dtype=table.dtype, device=table.device)

    @classmethod
    def load(cls, source: Source, name: str, vocabulary: int, dim: int, scale: float = 1.0) -> Embedding:
        """Read `<name>.weight` [vocabulary, dim]."""
        return cls(source.tensor(f"{name}.weight", (vocabulary, dim)), scale)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """ids [tokens] -> [tokens, dim]"""
        rows = functional.embedding(ids, self.table)
        return rows if self.scale is None else rows * self.scale


class Head:
    """Hidden states to logits, with an optional soft cap: cap * tanh(x / cap).

    They are float32, unless they are what a matrix product in 16 bits gave and nothing more: to write those again in twice the
    bytes would take 256 rows of 200,000 longer than to choose from them.
    """

    def __init__(self, weight: Weight, ranks: Ranks, split: bool, softcap: float | None = None) -> None:
        self.weight = weight
        self.ranks = ranks
        self.split = split
        self.softcap = softcap

    @classmethod
    def load(
        cls, source: Source, ranks: Ranks, name: str, embedding: Embedding, vocabulary: int, dim: int, *,
        tied: bool, softcap: float | None = None,
    ) -> Head:  # fmt: skip
        """Read `<name>.weight` [vocabulary, dim], or share the embedding's rows when tied."""
        split = ranks.world > 1 and vocabulary % ranks.world == 0
        if tied:
            size = vocabulary // ranks.world if split else vocabulary
            start = ranks.rank * size if split else 0
            matrix = embedding.table[start : start + size]
        else:
            matrix = source.tensor(f"{name}.weight", (vocabulary, dim), shard_dim=0 if split else None)
        return cls(PlainWeight(matrix), ranks, split, softcap)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [rows, dim] -> logits [rows, vocabulary], float32 or of `hidden`'s dtype"""
        few = None
        if len(hidden) <= FEW_TOKENS:
            few = self.weight.few(hidden, None, Around(softcap=self.softcap, dtype=torch.float32))
        logits = self.weight.apply(hidden, None) if few is None else few
        if self.split:
            logits = self.ranks.gather_last(logits)
        if few is not None or self.softcap is None:
            return logits
        if trust.reason_not("gemv", logits.device) is None:
            from tokenwell.engine.kernels import logits as kernel

            return kernel.capped(logits.contiguous(), self.softcap)
        return torch.tanh_(logits.to(torch.float32).div_(self.softcap)).mul_(self.softcap)
