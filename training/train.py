"""Train, in calls of some minutes each: `python -m training.train --folder STATE --seconds 540 --rate 1 0.5 --out RESULTS`.

A call goes on from STATE if there is one, else from the bfloat16 weights at --weights, else from nothing. The rate is warmed
up and falls evenly over the call, between the two factors of --rate; the last call brings it down to nothing. RESULTS gets the
weights in bfloat16, the loss as JSON lines and what the model gets wrong.

On several cards: `python -m torch.distributed.run --standalone --nproc-per-node gpu -m training.train ...`; a step has the rows
of all.
"""

from __future__ import annotations

import argparse
import json
import math
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.export import read, save
from training.feed import Feed, Moved
from training.measure import report
from training.model import CONFIG, Mini, Shape
from training.noise import Noise
from training.optimise import Optimiser
from training.ranks import Ranks

STARTED = time.monotonic()
PROGRESS = Path(__file__).parent / "progress.json"
_TOLD_EVERY = 20  # steps
# Below this factor of the rate the noise in what is read falls with it: at last the model reads what it will be given.
_QUIET = 0.25


@dataclass(frozen=True)
class Plan:
    """The table [train] of config.toml."""

    row_tokens: int
    rows: int
    learned: float
    dropout: float
    noise: float
    workers: int
    muon_rate: float
    adam_rate: float
    weight_decay: float
    warm_up: int
    store_every_s: int
    seed: int

    @classmethod
    def load(cls, path: Path) -> Plan:
        return cls(**tomllib.loads(path.read_text())["train"])

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.rows, self.row_tokens, int(self.rows * self.row_tokens * self.learned)


@dataclass
class Progress:
    """Where training is; `run` counts the calls."""

    run: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Trainer:
    """The model, its optimiser and how far they are."""

    def __init__(self, shape: Shape, plan: Plan, folder: Path, weights: Path | None, ranks: Ranks) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.ranks, self.device, self.progress = plan, ranks, ranks.device, Progress()
        self.model = Mini(shape).to(self.device)
        self.optimiser = Optimiser(self.model, plan.muon_rate, plan.adam_rate, plan.weight_decay)
        self.lines: list[dict[str, Any]] = []
        self._folder = folder
        self._storing: threading.Thread | None = None
        self._load(weights)
        if plan.dropout:
            self.model.model.drop = torch.zeros((), device=self.device)
        self._noise = Noise(plan.noise, self.device)
        cuda = self.device.type == "cuda"
        self._dtype = torch.bfloat16 if cuda else torch.float32
        self._way = "flash" if cuda else "dense"
        if cuda:
            self.model.compile_parts()

    def _load(self, weights: Path | None) -> None:
        state = self._folder / "state.pt"
        if state.exists():
            stored = torch.load(state, map_location=self.device)
            self.model.load_state_dict(stored["model"])
            self.optimiser.restore(stored["optimiser"])
            self.progress = Progress(**stored["progress"])
            self._say(f"going on from {state}: {self.progress}")
        elif weights is not None and weights.exists():
            self.model.load_state_dict({name: tensor.float() for name, tensor in read(weights).items()})
            self.progress = Progress(**json.loads(_progress_of(weights).read_text()))
            self._say(f"going on from the weights in {weights}: {self.progress}")
        else:
            self._say("starting from nothing")

    def loss(self, batch: Moved) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of a batch (ids, documents, places, targets), and the likeliest token at each place."""
        return self.model(*batch, self._dtype, self._way)

    def check(self, batch: Moved) -> None:
        """Compare the gradients of a batch, as they will be computed, with those of plain attention without compilation.

        Raises RuntimeError when they are not finite or far apart: then a kernel or the compiler is wrong on this card.
        """
        if self.device.type != "cuda":
            return
        expected = self._plain(batch)
        loss, _ = self.loss(batch)
        loss.backward()
        apart = sorted(
            (float((tensor.grad - expected[name]).norm() / (expected[name].norm() + 1e-12)), name)
            for name, tensor in self.model.named_parameters()
        )
        self._drop()
        middle = apart[len(apart) // 2][0]
        self._say(f"compiled: loss {float(loss.detach()):.5f}, gradients apart by {middle:.4f}, worst {apart[-3:]}")
        # Where nearly every token is right, few make the gradient and rounding is more of it: 0.14 at a loss of 0.009.
        if not all(math.isfinite(each) for each, _ in apart) or middle > 0.4:
            raise RuntimeError("the gradients are wrong on this card")

    def _plain(self, batch: Moved) -> dict[str, torch.Tensor]:
        """Gradients without compilation and with whole masks, row by row."""
        ids, documents, places, targets = batch
        total = (targets >= 0).sum()
        whole = 0.0
        with torch.compiler.set_stance("force_eager"):
            for row in range(len(ids)):
                start = row * ids.shape[1]
                mine = (places >= start) & (places < start + ids.shape[1]) & (targets >= 0)
                given = (ids[row : row + 1], documents[row : row + 1], places[mine] - start, targets[mine])
                loss, _ = self.model(*given, self._dtype, "dense")
                loss = loss * (mine.sum() / total)
                loss.backward()
                whole += float(loss.detach())
        self._say(f"plain attention: loss {whole:.5f}")
        gradients = {name: tensor.grad.clone() for name, tensor in self.model.named_parameters()}
        self._drop()
        return gradients

    def _drop(self) -> None:
        for tensor in self.model.parameters():
            tensor.grad = None

    def train(self, feed: Feed, until_s: float, rates: tuple[float, float]) -> None:
        """Train until about `until_s` seconds after the program's start, from the first rate to the last.

        All ranks stop at the same step.
        """
        plan, ranks = self.plan, self.ranks
        self.check(feed.next()[0])
        self._leave_out(plan.dropout)
        self._say(f"ready to train after {time.monotonic() - STARTED:.0f} s")
        self._sums = torch.zeros(5, device=self.device, dtype=torch.float64)
        begun, stored = time.monotonic(), time.monotonic()
        first, told, told_s, pace_s = self.progress.step, self.progress.step, ranks.total(self._clock())[0], 0.0
        (high, low), begun_s = rates, told_s
        while (now_s := told_s + pace_s * (self.progress.step - told)) < until_s:  # the same on all ranks
            batch, count, _ = feed.next()
            warm = min(1.0, (self.progress.step - first + 1) / plan.warm_up)
            factor = warm * (low + (high - low) * (until_s - now_s) / (until_s - begun_s))
            self._noise.share = plan.noise * min(1.0, factor / _QUIET)
            batch = (self._noise(*batch), *batch[1:])
            loss, likeliest = self.loss(batch)
            loss.backward()
            ranks.average(tensor.grad for tensor in self.optimiser.parameters)
            self.optimiser.step(factor)
            known = batch[3] >= 0
            self._sums[:3] += torch.stack((loss.detach(), ((likeliest == batch[3]) & known).sum(), known.sum()))
            self._sums[3] += count
            self.progress.step += 1
            steps = self.progress.step - told
            if self.progress.step == first + 1 or steps == _TOLD_EVERY:
                before_s, told_s = told_s, self._tell(steps, told_s, factor, feed)
                told, pace_s = self.progress.step, (told_s - before_s) / steps
            if time.monotonic() - stored > plan.store_every_s:
                stored = time.monotonic()
                self.store()
        self.progress.seconds += time.monotonic() - begun
        self._leave_out(0.0)
        self.store()

    def _leave_out(self, share: float) -> None:
        if self.model.model.drop is not None:
            self.model.model.drop.fill_(share)

    def _clock(self) -> torch.Tensor:
        """The first rank's seconds since its start, as a sum over all ranks."""
        return torch.tensor([time.monotonic() - STARTED if self.ranks.first else 0.0], device=self.device, dtype=torch.float64)

    def _tell(self, steps: int, before_s: float, factor: float, feed: Feed) -> float:
        """Print how training goes, after the card has done all that it was given; the time now."""
        self._sums[4:] = self._clock()
        loss, right, learned, tokens, now_s = self.ranks.total(self._sums)
        self._sums.zero_()
        progress = self.progress
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss} at step {progress.step}")
        progress.tokens += int(tokens)
        line: dict[str, float] = {"run": progress.run, "step": progress.step, "tokens": progress.tokens}
        line |= {"loss": round(loss / steps / self.ranks.world, 5), "right": round(right / learned, 5)}
        line |= {"rate_factor": round(factor, 3)}
        self.lines.append(line)
        self._say(
            f"{now_s:5.0f} s {json.dumps(line)} {tokens / (now_s - before_s):,.0f} tokens/s, learned {learned / tokens:.3f}, "
            f"ready batches {feed.waiting()}, waited {feed.waited_s:.1f} s"
        )
        return now_s

    def _say(self, text: str) -> None:
        if self.ranks.first:
            print(text, flush=True)

    def store(self) -> None:
        """Write the whole state beside training; a file is complete or not there."""
        if not self.ranks.first:
            return
        if self._storing is not None:
            self._storing.join()
        state = {
            "model": _copied(self.model.state_dict()),
            "optimiser": _copied(self.optimiser.state()),
            "progress": dict(vars(self.progress)),
        }
        self._storing = threading.Thread(target=self._write, args=(state,))
        self._storing.start()

    def _write(self, state: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, self._folder / "state.new")
        (self._folder / "state.new").replace(self._folder / "state.pt")

    def finish(self, out: Path) -> None:
        """The weights as they will be served, the loss and how far training is."""
        if self._storing is not None:
            self._storing.join()
        save(self.model.state_dict(), out / "weights")
        (out / "weights" / "progress.json").write_text(json.dumps(vars(self.progress)) + "\n")
        (out / "loss.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        with torch.no_grad():  # what is measured is what was stored
            for tensor in self.model.parameters():
                tensor.copy_(tensor.bfloat16())


def _copied(node: Any) -> Any:
    """The same on the processor."""
    if isinstance(node, torch.Tensor):
        return node.detach().to("cpu", copy=True)
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node


@contextmanager
def _fed(plan: Plan, run: int, ranks: Ranks) -> Iterator[Feed]:
    feed = Feed(plan.seed, run, range(ranks.rank * plan.workers, (ranks.rank + 1) * plan.workers), plan.sizes)
    try:
        yield feed
    finally:
        feed.stop()


def _progress_of(weights: Path) -> Path:
    """The file that says how far weights are: beside them, or for the checkpoint of this repository, here."""
    beside = weights / "progress.json"
    return beside if beside.exists() else PROGRESS


def _run_before(folder: Path, weights: Path | None) -> int:
    """The number of the last call, without reading the weights."""
    for path in (folder / "run.json", _progress_of(weights) if weights else None):
        if path is not None and path.exists():
            return int(json.loads(path.read_text())["run"])
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the state is kept")
    parser.add_argument("--out", type=Path, required=True, help="where the results go")
    parser.add_argument("--weights", type=Path, help="bfloat16 weights to go on from when there is no state")
    parser.add_argument("--seconds", type=float, required=True, help="training ends so long after the program's start")
    parser.add_argument("--rate", type=float, nargs=2, default=(1.0, 0.0), metavar=("FIRST", "LAST"), help="factors of the rate")
    parser.add_argument("--config", type=Path, default=CONFIG)
    given = parser.parse_args()
    plan, shape = Plan.load(given.config), Shape.load(given.config)
    run = _run_before(given.folder, given.weights) + 1
    ranks = Ranks()
    with _fed(plan, run, ranks) as feed:  # forks, so it comes before the card
        ranks.join()
        trainer = Trainer(shape, plan, given.folder, given.weights, ranks)
        trainer.progress.run = run
        if ranks.first:  # a call that is cut off has used its seeds too
            given.folder.mkdir(parents=True, exist_ok=True)
            (given.folder / "run.json").write_text(json.dumps({"run": run}))
        feed.start(ranks.device)
        with suppress(KeyboardInterrupt):  # Ctrl-C ends training early; nothing is lost
            trainer.train(feed, given.seconds, tuple(given.rate))
    ranks.leave()
    if ranks.first:
        given.out.mkdir(parents=True, exist_ok=True)
        trainer.finish(given.out)
        report(trainer, given.out)
        print(f"done after {time.monotonic() - STARTED:.0f} s: {trainer.progress}", flush=True)


if __name__ == "__main__":
    main()
