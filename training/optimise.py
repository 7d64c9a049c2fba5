"""One step of training: Muon for the matrices inside the layers, Adam for embeddings and norms.

Muon moves a matrix by its momentum with all singular values made about one (Keller Jordan, 2024: five steps of a Newton-Schulz
iteration in bfloat16). Matrices of one size are done together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_BETAS = (0.9, 0.95)
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Optimiser:
    """Owns the state of all weights. Rates are those at full speed; `step` takes the factor of the schedule."""

    def __init__(self, model: nn.Module, muon_rate: float, adam_rate: float, weight_decay: float) -> None:
        named = dict(model.named_parameters())
        matrices = [tensor for name, tensor in named.items() if ".layers." in name and tensor.ndim == 2]
        others = [tensor for name, tensor in named.items() if ".layers." not in name or tensor.ndim != 2]
        self.parameters = [*matrices, *others]
        self._rate, self._decay, self._adam_rate = muon_rate, weight_decay, adam_rate
        fused = others[0].is_cuda
        self._adam = torch.optim.AdamW(others, lr=adam_rate, betas=_BETAS, eps=1e-10, weight_decay=0.0, fused=fused)
        sizes = sorted({tuple(tensor.shape) for tensor in matrices})
        self._groups = [[tensor for tensor in matrices if tuple(tensor.shape) == size] for size in sizes]
        self._momenta = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self._groups]

    def step(self, factor: float) -> None:
        """Move all weights by their gradients, which are then gone. `factor`: of both rates, 0 to 1."""
        with torch.no_grad():
            self._move(factor)
        for tensor in self.parameters:
            tensor.grad = None

    def _move(self, factor: float) -> None:
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group, momentum in zip(self._groups, self._momenta, strict=True):
            gradients = torch.stack([tensor.grad for tensor in group])
            momentum.lerp_(gradients, 1 - _MOMENTUM)
            rows, columns = group[0].shape
            moved = orthogonal(gradients.lerp(momentum, _MOMENTUM)) * max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(group, 1 - self._rate * self._decay * factor)
            torch._foreach_add_(group, list(moved.float().unbind()), alpha=-self._rate * factor)
        for settings in self._adam.param_groups:
            settings["lr"] = self._adam_rate * factor
        self._adam.step()

    def state(self) -> dict[str, Any]:
        return {"momenta": self._momenta, "adam": self._adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        for momentum, stored in zip(self._momenta, state["momenta"], strict=True):
            momentum.copy_(stored)
        self._adam.load_state_dict(state["adam"])


def orthogonal(matrices: Tensor) -> Tensor:
    """[count, rows, columns] -> the same singular vectors with singular values of about one, in bfloat16."""
    first, second, third = _QUINTIC
    x = matrices.bfloat16()
    turned = x.shape[1] > x.shape[2]
    x = x.mT if turned else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = first * x + (second * square + third * square @ square) @ x
    return x.mT if turned else x
