"""Activations by the names that checkpoints use, plain and gated.

The gated form (Shazeer 2020) takes [..., 2 * width], the gate in the first half and the value in the second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import cpu_elementwise, trust
from tokenwell.wire.errors import CheckpointError

Activation = Callable[[torch.Tensor], torch.Tensor]

_gelu_tanh = partial(functional.gelu, approximate="tanh")
_BY_NAME: dict[str, Activation] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu": functional.gelu,
    "relu": functional.relu,
}
# What kernels for the gated form call these.
_KERNELS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


def plain(name: str) -> Activation:
    """An activation by name. Raises CheckpointError for an unknown one."""
    try:
        return _BY_NAME[name]
    except KeyError:
        known = ", ".join(sorted(_BY_NAME))
        raise CheckpointError(f"config.json: activation {name!r} is not supported; known are {known}") from None


def gated(name: str) -> Gated:
    """The gated form of an activation by name. Raises CheckpointError for an unknown one."""
    return Gated(name)


class Gated:
    """activation(gate) * value: [..., 2 * width] -> [..., width]."""

    def __init__(self, name: str) -> None:
        self.activation = plain(name)
        self.kind = _KERNELS.get(name)  # what kernels call it; None: they do not know it

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind is not None:
            if cpu_elementwise.reason_not(x.shape[-1] // 2, x.dtype, x.device) is None:
                return cpu_elementwise.gated(cpu_elementwise.prepare(self.kind), x)
            if trust.reason_not("gated", x.device) is None:
                from tokenwell.engine.kernels import gated

                return gated.gated(x, self.kind)
        gate, value = x.chunk(2, dim=-1)
        return self.activation(gate).mul_(value)

    def times(self, gate: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """activation(gate) * value of two tensors [tokens, width]."""
        if self.kind is not None:
            if gate.dim() == 2 and cpu_elementwise.reason_not(gate.shape[-1], gate.dtype, gate.device) is None:
                return cpu_elementwise.times(cpu_elementwise.prepare(self.kind), gate, value)
            if trust.reason_not("gated", gate.device) is None:
                from tokenwell.engine.kernels import per_layer

                return per_layer.times(gate, value, self.kind)
        return self.activation(gate) * value
