"""Gemma's per-layer inputs: a small vector for every layer and token, and the gate by which a layer takes its own."""

from __future__ import annotations

import torch

from tokenwell.engine.kernels import trust
from tokenwell.engine.layers.activation import Gated
from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.norm import Join, RmsNorm
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.source import Source


class PerLayerInputs:
    """A table lookup plus a projection of the token's embedding."""

    def __init__(
        self, source: Source, ranks: Ranks, vocabulary: int, layers: int, width: int, dim: int, eps: float, *, offloaded: bool
    ) -> None:
        """Vectors of `width` for embeddings of `dim`. Offloaded: the table, far the largest part, lies in pinned host memory."""
        self.shape = (layers, width)
        self.offloaded = offloaded and source.device.type != "cpu"
        size = (vocabulary, layers * width)
        name = "embed_tokens_per_layer.weight"
        if self.offloaded:
            self.table = torch.empty(size, dtype=source.dtype, pin_memory=True)
            source.read_into(self.table, name, size)
        else:
            self.table = source.tensor(name, size)
        self.table_scale = width**0.5
        self.project = Linear.load(source, ranks, "per_layer_model_projection", dim, layers * width)
        self.project_scale = dim**-0.5
        self.norm = RmsNorm.load(source, "per_layer_projection_norm", width, eps)

    def __call__(self, ids: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """ids [tokens], embedded [tokens, dim] -> [tokens, layers, width]"""
        context = self.project(embedded)
        if trust.reason_not("per_layer", context.device) is None and self.norm.weight is not None:
            from tokenwell.engine.kernels import per_layer

            return per_layer.inputs(
                context, self.project_scale, self.table, self.table_scale, ids, self.norm.weight, self.norm.eps
            )
        context = self.norm((context * self.project_scale).unflatten(-1, self.shape))
        looked_up = torch.nn.functional.embedding(ids.to(self.table.device), self.table).to(context.device)
        return (context + (looked_up * self.table_scale).unflatten(-1, self.shape)) * 2.0**-0.5


class PerLayerGate:
    """up(activation(gate(x)) * input), where x is what the blocks before make of the residual stream."""

    def __init__(self, source: Source, ranks: Ranks, dim: int, width: int, activation: Gated, join: Join) -> None:
        """`join` makes x; what this puts out is normed and added by the next one."""
        self.gate = Linear.load(source, ranks, "per_layer_input_gate", dim, width)
        self.up = Linear.load(source, ranks, "per_layer_projection", width, dim)
        self.activation = activation
        self.join = join

    def __call__(self, x: torch.Tensor, given: torch.Tensor, *added: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """given [tokens, width], all else [tokens, dim] -> join(x, *added) and the output for it

        The first of `added` may be in parts (`Linear.in_parts`).
        """
        weight, kind = self.gate.weight, self.activation.kind
        fused = trust.reason_not("per_layer", x.device) is None and isinstance(weight, PlainWeight) and kind is not None
        if not fused or len(added) > 1:
            (x,) = self.join(x, *added)
            return x, self.up(self.activation.times(self.gate(x), given))
        assert isinstance(weight, PlainWeight)
        assert kind is not None
        x, gated = self._gate(x, added[0], weight.matrix, given, kind)
        return x, self.up(gated)

    def _gate(
        self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, given: torch.Tensor, kind: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """join(x, y) and activation(gate of it) * given, by as few kernels as their numbers of tokens allow."""
        from tokenwell.engine.kernels import narrow_linear, per_layer

        norm = self.join.norms[0]
        if len(x) <= per_layer.FEW and y.dim() == 2 and norm.weight is not None:
            return per_layer.sum_and_gate(x, y, norm.weight, norm.eps, weight, given, kind)
        (x,) = self.join(x, y)
        if narrow_linear.reason_not(x, weight) is None:
            return x, narrow_linear.linear(x, weight, activation=kind, times=given)
        return x, self.activation.times(self.gate(x), given)
