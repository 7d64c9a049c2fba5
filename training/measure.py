"""How many of the assistant's turns are right to the last token, when it is given everything before them.

A turn is right when every token of it is the likeliest: then greedy decoding writes it so. Dialogues are of the held-out world
and, fresh, of the train world.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training import tokenizer
from training.dialogue import Dialogue
from training.feed import fresh, seeds
from training.pack import IGNORED, Batch, batches

if TYPE_CHECKING:
    from training.train import Trainer

Predict = Callable[[Batch], Any]  # the likeliest token at each place of a batch
_FRESH = 1500  # dialogues of the train world
_DRAWINGS = 20  # of the held-out world, with 500 tasks each
_SHOWN = 12  # failures of a kind and language that are told


@dataclass(frozen=True)
class Turn:
    """One turn of the assistant, as it should be and as the model would have it token by token."""

    dialogue: int
    gold: list[int]
    preferred: list[int]

    @property
    def wrong(self) -> int | None:
        """The place of the first wrong token."""
        return next((place for place, (gold, own) in enumerate(zip(self.gold, self.preferred, strict=True)) if gold != own), None)


def turns(dialogues: list[Dialogue], sizes: tuple[int, int, int], predict: Predict) -> list[Turn]:
    """All learned turns of the dialogues. Those that fit in no row are left out."""
    ends = set(tokenizer.ids("<turn|>", "<|tool_response>"))
    found = []
    for batch in batches(dialogues, *sizes):
        known = batch.targets != IGNORED
        likeliest = predict(batch)[known]
        gold: list[int] = []
        preferred: list[int] = []
        for owner, target, own in zip(batch.sources[known], batch.targets[known], likeliest, strict=True):
            gold.append(int(target))
            preferred.append(int(own))
            if target in ends:
                found.append(Turn(int(owner), gold, preferred))
                gold, preferred = [], []
    return found


def table(dialogues: list[Dialogue], measured: list[Turn]) -> str:
    """By kind and language: turns of calls right, turns of text right, whether to call decided right, whole dialogues right."""
    call = tokenizer.ids("<|tool_call>")[0]
    count: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    failed = {turn.dialogue for turn in measured if turn.wrong is not None}
    for turn in measured:
        of = dialogues[turn.dialogue]
        what = "calls" if turn.gold[0] == call else "texts"
        for each in (count[of.kind, of.language], count["all", of.language]):
            each[what] += 1
            each[f"{what} right"] += turn.wrong is None
            each["decisions"] += 1
            each["decisions right"] += (turn.preferred[0] == call) == (turn.gold[0] == call)
    for number in {turn.dialogue for turn in measured}:
        of = dialogues[number]
        for each in (count[of.kind, of.language], count["all", of.language]):
            each["whole"] += 1
            each["whole right"] += number not in failed
    columns = ("calls", "texts", "decisions", "whole")
    lines = [f"{'kind':30}    " + "".join(f"{column:>22}" for column in columns)]
    for (kind, language), each in sorted(count.items()):
        shares = (
            f"{each[f'{column} right']} / {each[column]} = {each[f'{column} right'] / each[column]:6.1%}" if each[column] else "-"
            for column in columns
        )
        lines.append(f"{kind:30} {language} " + "".join(f"{share:>22}" for share in shares))
    return "\n".join(lines)


def failures(dialogues: list[Dialogue], measured: list[Turn], shown: int = _SHOWN) -> str:
    """The first wrong turns of each kind and language: the request, the turn up to its first wrong token, and both tokens.

    Of texts a quarter as many as of calls: other words may be right too.
    """
    call = tokenizer.ids("<|tool_call>")[0]
    decode = tokenizer.load().decode
    told: Counter[tuple[str, str, bool]] = Counter()
    lines = []
    for turn in measured:
        if turn.wrong is None:
            continue
        of = dialogues[turn.dialogue]
        own = turn.preferred[turn.wrong]
        text = call not in (turn.gold[0], turn.preferred[0])
        told[of.kind, of.language, text] += 1
        if told[of.kind, of.language, text] > (shown // 4 if text else shown):
            continue
        before, after = turn.gold[: turn.wrong], turn.gold[turn.wrong :]
        asked = [message["content"] for message in of.messages if message["role"] == "user"]
        tools = " ".join(tool["function"]["name"] for tool in of.tools)
        lines.append(
            f"[{of.kind} {of.language}] tools: {tools}\n  asked: {' | '.join(asked)[-600:]}\n"
            f"  gold: {decode(before, skip_special_tokens=False)} >>>{decode(after, skip_special_tokens=False)}\n"
            f"  own:  >>>{decode([own], skip_special_tokens=False)!r}"
        )
    return "\n".join(lines)


def report(trainer: Trainer, out: Path) -> None:
    """Measure a trainer's model; tables and failures into errors.txt, tables on the terminal too."""
    from training.held_out import dialogues  # needs the service's code, which training alone does not

    predict = predictor(trainer)
    worlds: tuple[tuple[str, Callable[[], list[Dialogue]]], ...] = (
        ("held out", dialogues),
        ("held out, other drawings", lambda: dialogues(_DRAWINGS)),
        ("train world, fresh", lambda: list(islice(fresh("train", seeds(trainer.plan.seed, 0, 0)), _FRESH))),  # never learned
    )
    with (out / "errors.txt").open("w", encoding="utf-8") as file:
        for name, make in worlds:
            begun = time.monotonic()
            asked = make()
            measured = turns(asked, trainer.plan.sizes, predict)
            text = f"== {name}\n{table(asked, measured)}"
            print(f"{text}\nmeasured in {time.monotonic() - begun:.1f} s", flush=True)
            file.write(f"{text}\n{failures(asked, measured)}\n\n")
            file.flush()


def predictor(trainer: Trainer) -> Predict:
    """The likeliest tokens by a trainer's model, through the function that it trained with: nothing is compiled anew."""

    def predict(batch: Batch) -> Any:
        arrays = (batch.ids, batch.documents, batch.places, batch.targets)
        tensors = tuple(torch.from_numpy(array).to(trainer.device) for array in arrays)
        _, likeliest = trainer.loss(tensors)
        return likeliest.cpu().numpy()

    return predict
