"""The dense gated feed-forward block."""

from __future__ import annotations

import torch

from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.linear import Linear, even_part
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.source import Source


class Mlp:
    """down(gated(gate_up(x))), split by width over the ranks."""

    def __init__(self, gate_up: Linear, down: Linear, gated: Gated) -> None:
        self.gate_up = gate_up
        self.down = down
        self.gated = gated

    @classmethod
    def load(cls, source: Source, ranks: Ranks, dim: int, width: int, gated: Gated, *, bias: bool = False) -> Mlp:
        """Read `{gate,up,down}_proj` under the source's prefix."""
        parts = [even_part("gate_proj", width, ranks), even_part("up_proj", width, ranks)]
        gate_up = Linear.load_fused(source, ranks, parts, dim, bias=bias)
        return cls(gate_up, Linear.load(source, ranks, "down_proj", width, dim, bias=bias, split="row"), gated)

    def __call__(
        self, x: torch.Tensor | Codes, *, before: RmsNorm | None = None, plus: torch.Tensor | None = None
    ) -> torch.Tensor:
        """plus + the block of before(x): [tokens, dim] -> [tokens, dim]; codes only where `gate_up` takes them"""
        if self.gate_up.fuses(x):
            return self.down(self.gate_up(x, before=before, after=self.gated), plus=plus)
        # With many tokens the activation belongs to the second product, which may want it in 8 bits.
        if self.down.takes_codes(x):
            return self.down(self._codes(x, before), plus=plus)
        return self.down(self.gate_up(x, before=before), before=self.gated, plus=plus)

    def in_parts(self, x: torch.Tensor | Codes, *, before: RmsNorm | None = None) -> torch.Tensor:
        """The block of before(x) as `Linear.in_parts` gives it."""
        if self.gate_up.fuses(x) or not self.down.takes_codes(x):
            return self(x, before=before)
        return self.down.in_parts(self._codes(x, before))

    def _codes(self, x: torch.Tensor | Codes, before: RmsNorm | None) -> Codes:
        """What the second product gets, in e4m3."""
        return self.down.codes(self.gate_up.in_parts(x, before=before), self.gated)
