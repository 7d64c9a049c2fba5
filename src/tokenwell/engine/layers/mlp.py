"""The dense gated feed-forward block."""

from __future__ import annotations

import torch

from tokenwell.engine.layers.activation import Activation
from tokenwell.engine.layers.linear import Linear, even_part
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.source import Source


class Mlp:
    """down(gated(gate_up(x))), split by width over the ranks."""

    def __init__(self, gate_up: Linear, down: Linear, gated: Activation) -> None:
        self.gate_up = gate_up
        self.down = down
        self.gated = gated

    @classmethod
    def load(cls, source: Source, ranks: Ranks, dim: int, width: int, gated: Activation, *, bias: bool = False) -> Mlp:
        """Read `{gate,up,down}_proj` under the source's prefix."""
        parts = [even_part("gate_proj", width, ranks), even_part("up_proj", width, ranks)]
        gate_up = Linear.load_fused(source, ranks, parts, dim, bias=bias)
        return cls(gate_up, Linear.load(source, ranks, "down_proj", width, dim, bias=bias, split="row"), gated)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, dim] -> [tokens, dim]"""
        return self.down(self.gated(self.gate_up(x)))
