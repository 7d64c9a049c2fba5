"""Random configurations of every architecture in float32: the log-probabilities are those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.engine.models.alone import continuation
from tests.tiny import build
from tests.tiny.reference import logprobs
from tests.tiny.shapes import draw


@pytest.mark.parametrize("seed", range(32))
def test_any_combination_is_computed_as_transformers_does(seed: int, tmp_path: Path, gpu: torch.device) -> None:
    folder = build.write(draw(seed), tmp_path / "checkpoint")
    prompt = torch.randint(0, 370, (50,), generator=torch.Generator().manual_seed(seed)).tolist()
    chunk = 128 if seed % 3 else 16
    ids, found = continuation(folder, prompt, 40, device=gpu.type, dtype="float32", chunk=chunk)
    expected = logprobs(folder, ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert [one.logprob for one in found] == pytest.approx(expected.tolist(), abs=1e-3)
