"""Activations by the names that checkpoints use, plain and gated.

The gated form (Shazeer 2020) takes [..., 2 * width], the gate in the first half and the value in the second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as functional

from tokenwell.engine.kernels import cpu_elementwise
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
# What the CPU's kernels for the gated form call these.
_KERNELS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}


def plain(name: str) -> Activation:
    """An activation by name. Raises CheckpointError for an unknown one."""
    try:
        return _BY_NAME[name]
    except KeyError:
        known = ", ".join(sorted(_BY_NAME))
        raise CheckpointError(f"config.json: activation {name!r} is not supported; known are {known}") from None


def gated(name: str) -> Activation:
    """activation(gate) * value: [..., 2 * width] -> [..., width]."""
    activation = plain(name)
    kind = _KERNELS.get(name)

    def apply(x: torch.Tensor) -> torch.Tensor:
        if kind and cpu_elementwise.reason_not(x.shape[-1] // 2, x.dtype, x.device) is None:
            return cpu_elementwise.gated(cpu_elementwise.prepare(kind), x)
        gate, value = x.chunk(2, dim=-1)
        return activation(gate).mul_(value)

    return apply
