"""Training goes on from its state, or from weights alone, and stops when the loss is no number."""

import json
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.conftest import SMALL
from training import train
from training.dialogue import Dialogue, assistant, user
from training.pack import batches
from training.ranks import Ranks
from training.train import Plan, Trainer

SHAPE = replace(SMALL, layers="sfsf", shared=2)
PLAN = Plan(128, 2, 0.25, 0.1, 0.0, 1, 0.02, 0.003, 0.005, 2, 600, 1)


class Given:
    """A feed of the same few dialogues."""

    waited_s = 0.0

    def __init__(self) -> None:
        dialogues = [Dialogue([user(f"say {word}"), assistant(word)]) for word in ("one", "two", "three", "four")]
        found = list(batches(dialogues, *PLAN.sizes))
        self._moved = cycle(
            [tuple(map(torch.from_numpy, (each.ids, each.documents, each.places, each.targets))) for each in found]
        )

    def next(self) -> tuple[Any, int, int]:
        return next(self._moved), 40, 8

    def waiting(self) -> int:
        return 0


def trainer(folder: Path, weights: Path | None = None) -> Trainer:
    ranks = Ranks()
    ranks.device = torch.device("cpu")
    return Trainer(SHAPE, PLAN, folder, weights, ranks)


def run(made: Trainer, feed: Any, seconds: float = 0.5) -> None:
    made.train(feed, time.monotonic() - train.STARTED + seconds, (0.8, 0.2))


def test_it_learns_stores_and_goes_on(tmp_path: Path) -> None:
    first = trainer(tmp_path / "state")
    run(first, Given(), 1.0)
    first.finish(tmp_path / "out")
    step = first.progress.step
    assert step > 2
    lines = [json.loads(line) for line in (tmp_path / "out/loss.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 1 and lines[0]["loss"] > 5
    factors = [line["rate_factor"] for line in lines[1:]]  # the first step warms up
    assert factors == sorted(factors, reverse=True) and all(0.2 <= factor <= 0.8 for factor in factors)

    again = trainer(tmp_path / "state")
    assert again.progress.step == step
    loss, _ = again.loss(Given().next()[0])
    assert float(loss.detach()) < lines[0]["loss"]
    run(again, Given())
    assert again.progress.step > step
    again.finish(tmp_path / "again")

    elsewhere = trainer(tmp_path / "nothing", tmp_path / "out/weights")
    assert elsewhere.progress.step == step
    for name, tensor in elsewhere.model.state_dict().items():
        assert torch.equal(tensor, first.model.state_dict()[name]), name  # both as they were stored, in bfloat16


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    with torch.no_grad():
        made.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="the loss is nan at step 1"):
        run(made, Given())


def test_the_number_of_a_run_is_known_without_the_weights(tmp_path: Path) -> None:
    assert train._run_before(tmp_path, None) == 0
    (tmp_path / "run.json").write_text('{"run": 3}')
    assert train._run_before(tmp_path, None) == 3
    assert train._run_before(tmp_path / "else", tmp_path) == json.loads(train.PROGRESS.read_text())["run"]
