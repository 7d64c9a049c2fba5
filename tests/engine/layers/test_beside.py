"""Two pieces of work side by side."""

from __future__ import annotations

import pytest
import torch

from tokenwell.engine.layers.beside import both
from tokenwell.engine.platform import accelerator


def test_both_results(gpu: torch.device) -> None:
    x = torch.randn(300, 300, device=gpu)
    for _ in range(3):  # memory of the one before is taken again
        one, other = both(lambda: (x @ x) @ x, lambda: x + 1, gpu)
        y = one + other
        assert torch.allclose(y, x @ x @ x + x + 1, atol=1e-2, rtol=1e-3)


@pytest.mark.card
def test_recorded(gpu: torch.device) -> None:
    x = torch.randn(300, 300, device=gpu)

    def work() -> torch.Tensor:
        one, other = both(lambda: x * 2, lambda: x + 1, gpu)
        return one - other

    work()
    recorded = accelerator.Recording(work, gpu)
    x.copy_(torch.randn(300, 300, device=gpu))
    recorded.replay()
    assert torch.allclose(recorded.output, x - 1, atol=1e-5)
