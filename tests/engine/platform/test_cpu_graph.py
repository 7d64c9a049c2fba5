"""Recorded work on the CPU: a replay computes with what the tensors hold now, and what cannot be recorded is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as functional
from tests.tiny.build import _random_model
from tests.tiny.recipes import RECIPES
from tests.tiny.tokenizer import write_tokenizer

from tokenwell.engine.kernels import cpu_pool
from tokenwell.engine.layers.linear import PlainWeight
from tokenwell.engine.load import load, scheduler_for
from tokenwell.engine.platform.accelerator import Recording
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling
from tokenwell.wire.spec import EngineSpec

CPU = torch.device("cpu")
KERNELS = cpu_pool.reason_not(torch.bfloat16, CPU) is None  # on other machines steps are not recorded


@torch.inference_mode()
def again(work: Callable[[torch.Tensor], torch.Tensor], first: torch.Tensor, second: torch.Tensor) -> None:
    """Recorded with one input, replayed with another."""
    work(first.clone())  # what is recorded has run before
    given = first.clone()
    recording = Recording(lambda: work(given), CPU)
    assert torch.equal(recording.output, work(first.clone()))
    given.copy_(second)
    recording.replay()
    assert torch.equal(recording.output, work(second.clone()))
    recording.replay()
    assert torch.equal(recording.output, work(second.clone()))


WORKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "arithmetic": lambda x: (x * 2.5 + x).cos() - x.neg(),
    "views": lambda x: torch.cat((x.view(2, 8)[:, 1:3], x.unflatten(0, (2, 8))[:, 5:7]), dim=1).flatten() + 1,
    "copies": lambda x: (x.view(4, 4).T.reshape(16) + x.to(torch.float64)).to(torch.float32),
    "in place": lambda x: torch.tanh_((x + 0).div_(3)).mul_(3),
}


@pytest.mark.parametrize("name", ["arithmetic", "views", "copies", "in place"])
def test_operations(name: str) -> None:
    again(WORKS[name], torch.randn(16), torch.randn(16))


def test_lookups() -> None:
    table, columns = torch.randn(9, 4), torch.tensor([3, 1])
    again(lambda ids: functional.embedding(ids, table) + table[ids, columns][:, None], torch.tensor([1, 2]), torch.tensor([8, 0]))


@pytest.mark.parametrize(
    "work", [lambda x: x[x > 0], lambda x: x * int(x.sum() > 0), lambda x: x.sort()[0], lambda x: x.nonzero()]
)
def test_what_depends_on_numbers_is_refused(work: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(RuntimeError, match="cannot be recorded on a CPU"), torch.inference_mode():
        Recording(lambda: work(torch.ones(4)), CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 4 with everything that the bundled model has, in sizes that kernels serve."""
    recipe = RECIPES["gemma4-e"]
    sizes = {"hidden_size": 96, "intermediate_size": 128, "hidden_size_per_layer_input": 32}
    config = {**recipe.config, **sizes, "head_dim": 64, "global_head_dim": 64}
    recipe = dataclasses.replace(recipe, config=config, dtype="bfloat16")
    made = tmp_path_factory.mktemp("gemma4-e-wide")
    _random_model(recipe).save_pretrained(made)
    write_tokenizer(recipe.family, made)
    assert "global_head_dim" not in json.loads((made / "config.json").read_text())  # one size: transformers names only head_dim
    return made


def answers(folder: Path, graphs: bool) -> dict[str, list[int]]:
    """Greedy and random answers to requests of several lengths; one joins in every third step."""
    spec = EngineSpec(
        str(folder), "", "", device="cpu", graphs=graphs, max_num_seqs=5, max_model_len=128, kv_cache_gib=0.02, threads=1
    )
    loaded = load(spec)
    assert (loaded.worker.graphs is not None) == (graphs and KERNELS)
    scheduler = scheduler_for(loaded.ready, prefix_cache=True)
    waiting = [
        Generate(str(i), list(range(5, 8 + 9 * i)), Sampling(max_tokens=30 - 4 * i, temperature=float(i % 2), seed=3))
        for i in range(5)
    ]
    tokens: dict[str, list[int]] = {request.id: [] for request in waiting}
    steps = 0
    while waiting or not scheduler.idle:
        if waiting and steps % 3 == 0:
            assert scheduler.add(waiting.pop(0)) is None
        steps += 1
        plan = scheduler.schedule()
        for output in scheduler.apply(loaded.worker.run(plan)) if plan is not None else ():
            tokens[output.id] += output.tokens
    assert (loaded.worker.graphs is not None) == (graphs and KERNELS)  # nothing refused to be recorded
    return tokens


def test_recorded_steps_change_no_token(folder: Path) -> None:
    expected = answers(folder, graphs=False)
    assert all(expected.values())
    assert answers(folder, graphs=True) == expected


def test_threads_of_a_recording() -> None:
    before, weight = torch.get_num_threads(), torch.randn(4000, 64).bfloat16()
    layer = PlainWeight(weight)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            again(lambda x: layer.apply(x, None) * 2, *torch.randn(2, 3, 64).bfloat16())
    finally:
        torch.set_num_threads(before)
