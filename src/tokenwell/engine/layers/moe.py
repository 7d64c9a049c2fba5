"""Mixture of experts: many gated feed-forward blocks of which a few serve each token.

Experts are split by width over the ranks, so that every rank does the same share of every expert.
"""

from __future__ import annotations

import torch

from tokenwell.engine.layers.activation import Activation
from tokenwell.engine.layers.linear import PlainWeight
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights import shard
from tokenwell.engine.weights.source import Source


class Experts:
    """All experts of one layer, on this rank.

    gate_up [experts, 2 * width, dim] with the gate rows first, down [experts, dim, width], optional biases
    [experts, 2 * width] and [experts, dim].
    """

    def __init__(
        self, gate_up: torch.Tensor, down: torch.Tensor, gated: Activation, ranks: Ranks,
        gate_up_bias: torch.Tensor | None = None, down_bias: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        self.gate_up = [PlainWeight(matrix) for matrix in gate_up]
        self.down = [PlainWeight(matrix) for matrix in down]
        self.gated = gated
        self.ranks = ranks
        self.gate_up_bias = gate_up_bias
        self.down_bias = down_bias

    @classmethod
    def load(cls, source: Source, ranks: Ranks, experts: int, dim: int, width: int, gated: Activation) -> Experts:
        """Read `experts.gate_up_proj`/`experts.down_proj` fused, or `experts.<e>.{gate,up,down}_proj.weight` one by one."""
        keep = shard.even(width, ranks.rank, ranks.world)
        size = keep[1] - keep[0]
        gate_up = source.empty((experts, 2 * size, dim))
        down = source.empty((experts, dim, size))
        if source.has("experts.gate_up_proj"):
            for half in range(2):
                rows = shard.even(2 * width, ranks.rank, ranks.world, block=half, blocks=2)
                place = gate_up[:, half * size : (half + 1) * size]
                source.read_into(place, "experts.gate_up_proj", (experts, 2 * width, dim), part=(None, rows))
            source.read_into(down, "experts.down_proj", (experts, dim, width), part=(None, None, keep))
            return cls(gate_up, down, gated, ranks)
        for index in range(experts):
            one = source.at(f"experts.{index}.")
            one.read_into(gate_up[index, :size], "gate_proj.weight", (width, dim), rows=keep)
            one.read_into(gate_up[index, size:], "up_proj.weight", (width, dim), rows=keep)
            one.read_into(down[index], "down_proj.weight", (dim, width), part=(None, keep))
        return cls(gate_up, down, gated, ranks)

    def __call__(self, x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """x [tokens, dim], chosen expert ids and their shares [tokens, k] -> weighted sum [tokens, dim]"""
        out = torch.zeros_like(x, dtype=torch.float32)
        order = chosen.flatten().argsort(stable=True)  # slots (token * k + j) grouped by expert
        counts = torch.bincount(chosen.flatten(), minlength=len(self.gate_up)).tolist()
        tokens = order // chosen.shape[1]
        weights = share.flatten()[order].to(torch.float32)
        start = 0
        for expert, count in enumerate(counts):
            if count == 0:
                continue
            rows = tokens[start : start + count]
            y = self._one(expert, x[rows])
            out.index_add_(0, rows, y.to(torch.float32) * weights[start : start + count, None])
            start += count
        return self.ranks.all_reduce(out).to(x.dtype)

    def _one(self, expert: int, x: torch.Tensor) -> torch.Tensor:
        gate_up_bias = None if self.gate_up_bias is None else self.gate_up_bias[expert]
        down_bias = None if self.down_bias is None else self.down_bias[expert]
        hidden = self.gated(self.gate_up[expert].apply(x, gate_up_bias))
        return self.down[expert].apply(hidden, down_bias)
