"""One gateway in front of one fake engine for all tests that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.checkpoint import write_checkpoint
from tests.fakes.running import Running


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat side of a checkpoint."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def gateway(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A healthy gateway; its window is 512 tokens and its vocabulary 400."""
    server = {"keep_alive_s": 0.2, "max_body_mib": 16}
    with Running(checkpoint, tmp_path_factory.mktemp("gateway"), server=server) as running:
        yield running.ready()
