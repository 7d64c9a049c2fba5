"""Recordings for tests of recorded steps."""

from __future__ import annotations

import pytest
import torch
from tests.engine.run.recorded import Repeated

from tokenwell.engine.platform import accelerator
from tokenwell.engine.run import graphs


@pytest.fixture
def recording(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device's name, on which graphs work."""
    if gpu.type == "cpu":
        from tokenwell.engine.attention import choose
        from tokenwell.engine.attention.reference import ReferenceAttention

        monkeypatch.setattr(graphs, "Recording", Repeated)
        monkeypatch.setattr("tokenwell.engine.run.worker.graphs_reason_not", lambda device: None)
        monkeypatch.setattr(choose, "_IN_ORDER", (ReferenceAttention(),))
        monkeypatch.setattr("tokenwell.engine.models.build.Build.records", True)
    else:
        assert accelerator.graphs_reason_not(gpu) is None
    return gpu.type
