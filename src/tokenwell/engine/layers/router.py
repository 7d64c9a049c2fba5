"""Which experts serve a token, and how much each counts."""

from __future__ import annotations

import torch

from tokenwell.engine.kernels import trust
from tokenwell.engine.layers.linear import Linear, PlainWeight
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.platform import accelerator


class Router:
    """The best few experts by logit. Shares are of a softmax over these few, or over all experts, in float32.

    A softmax over all that is made to sum to one again over the chosen is the softmax over the chosen.
    """

    def __init__(
        self, project: Linear, chosen: int, *, over_chosen: bool, norm: RmsNorm | None = None, factor: torch.Tensor | None = None
    ) -> None:
        """`norm` is applied to what `project` gets; `factor` [experts] float32 multiplies the shares."""
        self.project = project
        self.chosen = chosen
        self.over_chosen = over_chosen
        self.norm = norm
        self.factor = factor
        self._counts: torch.Tensor | None = None
        weight = project.weight
        if isinstance(weight, PlainWeight) and accelerator.kernels_reason_not(weight.matrix.device) is None:
            from tokenwell.engine.kernels import router

            self._counts = router.counters(weight.matrix.device)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x [tokens, dim] -> expert ids, best first, and their shares, both [tokens, chosen]"""
        return self._route(x, self.norm)

    def _route(self, x: torch.Tensor, norm: RmsNorm | None) -> tuple[torch.Tensor, torch.Tensor]:
        if trust.reason_not("router", x.device) is not None:
            from_logits = _choose
        else:
            from tokenwell.engine.kernels import narrow_linear, router

            weight = self.project.weight
            if self._counts is not None and isinstance(weight, PlainWeight) and len(x) <= router.FEW_TOKENS:
                return router.route(
                    x, weight.matrix, self.project.bias, self.chosen, self._counts, over_chosen=self.over_chosen,
                    norm=None if norm is None else (norm.weight, norm.eps), factor=self.factor,
                )  # fmt: skip
            from_logits = router.choose
            if isinstance(weight, PlainWeight) and narrow_linear.reason_not(x, weight.matrix) is None:
                before = None if norm is None else (norm.weight, norm.eps)
                logits = narrow_linear.linear(x, weight.matrix, bias=self.project.bias, norm=before, dtype=torch.float32)
                return router.choose(logits, self.chosen, over_chosen=self.over_chosen, factor=self.factor)
        logits = self.project(x, before=norm)
        return from_logits(logits, self.chosen, over_chosen=self.over_chosen, factor=self.factor)


def _choose(
    logits: torch.Tensor, top: int, *, over_chosen: bool, factor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    best, chosen = logits.topk(top, dim=-1)
    share = best if over_chosen else logits.log_softmax(-1, dtype=torch.float32).gather(-1, chosen)
    share = share.softmax(-1, dtype=torch.float32) if over_chosen else share.exp()
    return chosen, share if factor is None else share * factor[chosen]
