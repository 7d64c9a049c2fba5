"""The chat side of a checkpoint; each test here starts, and mostly breaks, a gateway of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.checkpoint import write_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the gateway can serve."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
