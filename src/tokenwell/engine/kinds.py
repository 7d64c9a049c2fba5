"""What tells calls and layers apart, as far as kernels are concerned."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch

from tokenwell.engine.layers.attention import CacheOwner
from tokenwell.engine.models.registry import Model
from tokenwell.engine.run.batch import Batch

_LAYER_DEPTH = 4  # a layer's block, its projection, the weight, what the weight keeps


def shapes(values: Sequence[Any], depth: int = 2) -> tuple[Any, ...]:
    """Shapes and dtypes of tensors, plain values, and the same of the layers that are passed, `depth` deep."""
    told: list[Any] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            told.append((tuple(value.shape), value.dtype))
        elif isinstance(value, str | int | float | bool | type(None)):
            told.append(value)
        elif depth and type(value).__module__.startswith("tokenwell.engine.") and not isinstance(value, Batch | CacheOwner):
            told.append((type(value).__name__, shapes(list(getattr(value, "__dict__", {}).values()), depth - 1)))
    return tuple(told)


def one_of_each(model: Model) -> Model:
    """The model with the first layer of each kind alone: its steps need the kernels that the model's need, and little else."""
    first: dict[Any, Any] = {}
    for layer in model.layers:
        first.setdefault(shapes(list(vars(layer).values()), _LAYER_DEPTH), layer)
    brief = copy(model)
    brief.layers = list(first.values())
    return brief
