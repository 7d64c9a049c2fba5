"""Checkpoints with random weights, written as a trained one is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.export import write
from training.model import Mini, Shape

SMALL = replace(Shape.load(), hidden=96, heads=6, kv_heads=3, head_dim=16, mlp=64, per_layer=8, window=24)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the real layers and vocabulary, but narrow, with a window of 24 tokens."""
    folder = tmp_path_factory.mktemp("mini")
    torch.manual_seed(0)
    write(Mini(SMALL).state_dict(), SMALL, folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices on many threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
