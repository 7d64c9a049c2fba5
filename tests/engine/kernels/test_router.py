"""Routing by a kernel against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from tests.engine.kernels import interpreter, rounding

from tokenwell.engine.kernels import router

rounding.correct()
interpreter.complete()


@pytest.mark.parametrize(("experts", "top", "tokens"), [(32, 4, 1), (12, 3, 4), (5, 5, 2)])
@pytest.mark.parametrize("over_chosen", [True, False])
@pytest.mark.parametrize("norm", ["no norm", "without weight", "with weight"])
def test_route_and_choose(gpu: torch.device, experts: int, top: int, tokens: int, over_chosen: bool, norm: str) -> None:
    dim, eps = 40, 1e-6
    x, weight = torch.randn((tokens, dim), device=gpu), torch.randn((experts, dim), device=gpu)
    bias, factor = torch.randn(experts, device=gpu), torch.rand(experts, device=gpu)
    scale = torch.rand(dim, device=gpu) if norm == "with weight" else None
    normed = x if norm == "no norm" else functional.rms_norm(x, (dim,), scale, eps)
    logits = normed @ weight.T + bias
    expected = router.reference(logits, top, over_chosen=over_chosen, factor=factor)
    counts = router.counters(gpu)
    for _ in range(2):  # the counters are zero again behind each call
        routed = router.route(
            x, weight, bias, top, counts, over_chosen=over_chosen, norm=None if norm == "no norm" else (scale, eps), factor=factor
        )
        for chosen, share in (routed, router.choose(logits, top, over_chosen=over_chosen, factor=factor)):
            assert chosen.dtype == torch.int32
            assert torch.equal(chosen, expected[0])
            assert torch.allclose(share, expected[1], atol=1e-5)
    assert not counts.any()


def test_equal_logits_are_taken_in_order(gpu: torch.device) -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0], [0.0] * 5], device=gpu)
    chosen, share = router.choose(logits, 3, over_chosen=True)
    assert chosen.tolist() == [[1, 2, 4], [0, 1, 2]]
    assert torch.allclose(share, torch.full((2, 3), 1 / 3, device=gpu))


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's
def test_logits_that_are_not_numbers_choose_experts_that_exist(gpu: torch.device) -> None:
    chosen, _ = router.choose(torch.full((2, 5), float("nan"), device=gpu), 3, over_chosen=False)
    assert ((chosen >= 0) & (chosen < 5)).all()
