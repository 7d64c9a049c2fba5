"""Recorded decode steps: the same tokens as without, whatever the batch sizes, paddings and slots were.

Without a card a stand-in for the recording repeats the Python code with the inputs of the replay.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import Tiny
from tests.engine.run.recorded import NAMES, answers

from tokenwell.engine.load import load
from tokenwell.engine.run import graphs
from tokenwell.engine.run.batch import Batch
from tokenwell.engine.run.tables import PageTables
from tokenwell.wire.cache import KvGroup
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec


@pytest.mark.parametrize("name", NAMES)
def test_graphs_change_no_token(name: str, tiny: Tiny, recording: str) -> None:
    generator = torch.Generator().manual_seed(5)

    def request(index: int) -> Generate:
        prompt = torch.randint(0, 380, (3 + 7 * index,), generator=generator).tolist()
        sampling: dict[str, Any] = {"temperature": 0.9, "seed": index} if index % 3 == 2 else {}
        return Generate(str(index), prompt, Sampling(max_tokens=30 - 4 * index, **sampling))

    requests = [request(index) for index in range(6)]
    spec = {"device": recording, "dtype": "float32", "max_num_seqs": 5, "max_model_len": 128, "kv_cache_gib": 0.02}
    given = []
    for on in (True, False):
        loaded = load(EngineSpec(str(tiny(name)), "", "", graphs=on, **spec))
        assert (loaded.worker.graphs is not None) == on
        given.append(answers(loaded, requests))
        loaded.worker.forget_rows()
        loaded.worker.prepare()  # records a size in between, which touches no row's pages
        given.append(answers(loaded, requests))
    assert all(one == given[0] for one in given)
    assert all(given[0].values())


def test_what_cannot_be_recorded_is_launched(tiny: Tiny, recording: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> None:
        raise RuntimeError("not during capture")

    spec = {"device": recording, "dtype": "float32", "max_num_seqs": 5, "max_model_len": 128, "kv_cache_gib": 0.02}
    requests = [Generate(str(index), [5, 6, 7 + index], Sampling(max_tokens=9)) for index in range(3)]
    expected = answers(load(EngineSpec(str(tiny("qwen3")), "", "", graphs=False, **spec)), requests)
    monkeypatch.setattr(graphs, "Recording", refuse)
    loaded = load(EngineSpec(str(tiny("qwen3")), "", "", **spec))
    assert loaded.worker.graphs is not None
    assert answers(loaded, requests) == expected
    assert loaded.worker.graphs is None


def test_rows_that_were_never_filled_are_padding(gpu: torch.device) -> None:
    """A row of no tokens would have its newest key before the first."""
    seen: list[Batch] = []

    def forward(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return torch.zeros(batch.rows, 3, device=gpu)

    group = KvGroup("full", (0,), 1, 16, None, 64, 4)
    tables = PageTables((group,), 4, 32, gpu)
    memory = graphs.StepMemory((), (), tables, torch.zeros(5, dtype=torch.int64, device=gpu), 32)
    fresh = graphs.DecodeGraphs(forward, memory, 4)
    fresh.run_padding(2)
    assert seen[0].lengths.tolist() == [1, 1]
    assert seen[0].slots.tolist() == [tables.padding_slot] * 2
