"""Where Triton kernels are tested: on the card where there is one, else by Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The device for kernels' tests; `gpu.type == "cpu"` means the interpreter, for which sizes should be tiny."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shapes that would keep the interpreter busy for minutes are tested where there is a card."""
    if torch.cuda.is_available():
        return
    kept = [item for item in items if item.get_closest_marker("card") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
