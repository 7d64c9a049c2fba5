"""The dense gated feed-forward block."""

from __future__ import annotations

import torch

from tokenwell.engine.kernels.codes import Codes
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.linear import Linear, even_part
from tokenwell.engine.layers.norm import RmsNorm, Stream
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

    def __call__(self, x: torch.Tensor | Codes) -> torch.Tensor:
        """[tokens, dim] -> [tokens, dim]; codes only where `gate_up` takes them"""
        hidden, gated = self._hidden(x, None)
        return self.down(hidden, before=gated)

    def in_parts(self, x: torch.Tensor | Codes) -> torch.Tensor:
        """The block as `Linear.in_parts` gives it."""
        hidden, gated = self._hidden(x, None)
        return self.down.in_parts(hidden, before=gated)

    def takes_codes(self, x: torch.Tensor) -> bool:
        """Whether several tokens like x [tokens, dim] are best given in e4m3."""
        return self.gate_up.takes_codes(x)

    def onto(self, stream: Stream, norm: RmsNorm, following: RmsNorm, *, coded: bool) -> Stream:
        """The residual stream plus the block of its norm; `following` and `coded` as for `Linear.onto`."""
        hidden, gated = self._hidden(*stream.given(norm))
        return self.down.onto(stream.x, hidden, following, coded=coded, before=gated)

    def _hidden(self, x: torch.Tensor | Codes, before: RmsNorm | None) -> tuple[torch.Tensor | Codes, Gated | None]:
        """What the second product gets, and the activation that is still to be applied to it."""
        if self.gate_up.fuses(x):
            return self.gate_up(x, before=before, after=self.gated), None
        # With many tokens the activation belongs to the second product, which may want it in 8 bits.
        if self.down.takes_codes(x):
            return self.down.codes(self.gate_up.in_parts(x, before=before), self.gated), None
        return self.gate_up(x, before=before), self.gated
