"""Mixture of experts: many gated feed-forward blocks of which a few serve each token.

Over the ranks either every expert is dealt out by width, so that every rank does the same share of every expert, or whole
experts are; the results are summed in both cases.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tokenwell.engine.kernels import trust
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.linear import PlainWeight
from tokenwell.engine.layers.norm import RmsNorm, Stream
from tokenwell.engine.layers.router import Router
from tokenwell.engine.platform import accelerator
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.experts import ExpertMatrix, Split, deal, read_stack
from tokenwell.engine.weights.source import Source
from tokenwell.wire.capacity import RECORDED_TOKENS
from tokenwell.wire.errors import CheckpointError

FEW_SLOTS = 16  # tokens times experts a token: as many at most read their weights one by one


class ClampedGate:
    """(value + 1) * gate * sigmoid(1.702 * gate); the gate is capped above, the value on both sides (gpt-oss)."""

    kind = "swiglu_clamped"
    _ALPHA = 1.702

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[..., 2 * width] -> [..., width], the gate in the first half"""
        gate, value = x.chunk(2, dim=-1)
        gate = gate.clamp(max=self.limit)
        value = value.clamp(-self.limit, self.limit)
        return (value + 1) * gate * torch.sigmoid(self._ALPHA * gate)


class Experts:
    """Experts of one layer, on this rank: those from `first` on, as many as the weights have."""

    def __init__(
        self, gate_up: ExpertMatrix, down: ExpertMatrix, gated: Gated | ClampedGate, ranks: Ranks, first: int = 0
    ) -> None:
        """gate_up [experts, 2 * width, dim] with the gate rows first, down [experts, dim, width].

        Raises CheckpointError for quantised weights where no kernel computes the activation.
        """
        self.gate_up = gate_up
        self.down = down
        self.gated = gated
        self.ranks = ranks
        self.first = first
        self.kind = gated.kind if accelerator.kernels_reason_not(gate_up.codes.device) is None else None
        if self.kind is None:
            if gate_up.scales is not None:
                raise CheckpointError("Quantised experts need an activation that kernels know: silu or gelu_pytorch_tanh.")
            self._gate_up = [PlainWeight(matrix) for matrix in gate_up.codes]
            self._down = [PlainWeight(matrix) for matrix in down.codes]

    @classmethod
    def load(
        cls, source: Source, ranks: Ranks, experts: int, dim: int, width: int, gated: Gated | ClampedGate, split: Split = "width"
    ) -> Experts:
        """Read `experts.gate_up_proj`/`experts.down_proj` fused, or `experts.<e>.{gate,up,down}_proj.weight` one by one."""
        part = deal(experts, width, ranks.rank, ranks.world, split)
        return cls(*read_stack(source, experts, dim, width, part), gated, ranks, part.experts[0])

    def __call__(
        self, x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, plus: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x [tokens, dim], chosen expert ids and their shares [tokens, k] -> weighted sum [tokens, dim], and `plus` added."""
        added = plus if self.ranks.rank == 0 else None  # what is added is added once, not once a rank
        plain = self.kind is None or "experts" in trust.distrusted()
        y = self._loop(x, chosen, share, added) if plain else self._kernels(x, chosen, share, added)
        return self.ranks.all_reduce(y).to(x.dtype)

    def _kernels(self, x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, plus: torch.Tensor | None) -> torch.Tensor:
        from tokenwell.engine.kernels import experts_few, experts_grouped, experts_hopper, experts_many

        work: Callable[..., torch.Tensor] = experts_many.experts_many
        gate_up, down = self.gate_up, self.down
        hopper = gate_up.packed and x.dtype != torch.float32 and experts_hopper.reason_not(x.device, self.kind) is None
        if chosen.numel() <= (experts_hopper.FEW_SLOTS if hopper else FEW_SLOTS):
            work = experts_few.experts_few
        elif hopper and len(x) <= experts_hopper.MANY_TOKENS:
            work = experts_hopper.experts_hopper
        elif len(x) > RECORDED_TOKENS and experts_grouped.reason_not(x.device, x.dtype, gate_up.codes.dtype) is None:
            work = experts_grouped.experts_grouped
        elif hopper:
            work = experts_hopper.experts_hopper
        elif experts_many.reason_not(x, gate_up) is not None:  # float32, which only tests use with packed weights
            gate_up, down = gate_up.unpacked(x.dtype), down.unpacked(x.dtype)
        limit = self.gated.limit if isinstance(self.gated, ClampedGate) else 0.0
        return work(x, chosen, share, gate_up, down, self.kind, limit=limit, residual=plus, first=self.first)

    def _loop(self, x: torch.Tensor, chosen: torch.Tensor, share: torch.Tensor, plus: torch.Tensor | None) -> torch.Tensor:
        """One expert after the other, in float32 outside their products. Waits for the device, where there is one."""
        out = torch.zeros_like(x, dtype=torch.float32) if plus is None else plus.to(torch.float32, copy=True)
        order = chosen.flatten().argsort(stable=True)  # slots (token * k + j) grouped by expert
        gate_up, down = self._dense(x.dtype)
        last = self.first + len(gate_up)
        counts = torch.bincount(chosen.flatten(), minlength=last).tolist()
        tokens = order // chosen.shape[1]
        weights = share.flatten()[order].to(torch.float32)
        start = 0
        for expert, count in enumerate(counts):
            end = start + count
            if count and self.first <= expert < last:
                rows = tokens[start:end]
                y = self._one(gate_up, down, expert - self.first, x[rows])
                out.index_add_(0, rows, y.to(torch.float32) * weights[start:end, None])
            start = end
        return out

    def _dense(self, dtype: torch.dtype) -> tuple[list[PlainWeight], list[PlainWeight]]:
        """Each expert's two matrices, unpacked for this once where they are packed."""
        if self.kind is None:
            return self._gate_up, self._down
        wide = (stack.unpacked(dtype).codes for stack in (self.gate_up, self.down))
        gate_up, down = ([PlainWeight(matrix) for matrix in stack] for stack in wide)
        return gate_up, down

    def _one(self, gate_ups: list[PlainWeight], downs: list[PlainWeight], expert: int, x: torch.Tensor) -> torch.Tensor:
        gate_up_bias = None if self.gate_up.bias is None else self.gate_up.bias[expert]
        down_bias = None if self.down.bias is None else self.down.bias[expert]
        hidden = self.gated(gate_ups[expert].apply(x, gate_up_bias))
        return downs[expert].apply(hidden, down_bias)


class Mixture:
    """A feed-forward block of a router and the experts that it chooses from."""

    def __init__(self, router: Router, experts: Experts) -> None:
        self.router = router
        self.experts = experts

    def takes_codes(self, x: torch.Tensor) -> bool:
        """Routers do not."""
        return False

    def onto(self, stream: Stream, norm: RmsNorm, following: RmsNorm, *, coded: bool) -> Stream:
        """The residual stream plus the block of its norm, which the next block norms itself."""
        normed = norm(stream.x) if stream.normed is None else stream.normed
        assert isinstance(normed, torch.Tensor)
        return Stream(self.experts(normed, *self.router(normed), stream.x))
