"""Noise changes words that nobody copies, and nothing else; dropout keeps the mean."""

import pytest
import torch
from training import tokenizer
from training.dialogue import Dialogue, assistant, system, user
from training.model import dropped
from training.noise import Noise
from training.pack import IGNORED, batches


@pytest.mark.parametrize(
    ("language", "said", "copied"), [("en", "please water the garden bed", "marigold"), ("zh", "请给花坛浇水，记得是", "金盏菊")]
)
def test_noise_leaves_what_is_written(language: str, said: str, copied: str) -> None:
    dialogues = [Dialogue([system("Be short."), user(f"{said} {copied}"), assistant(copied)]) for _ in range(30)]
    batch = next(iter(batches(dialogues, 2, 512, 200)))
    ids, documents, places, targets = map(torch.from_numpy, (batch.ids, batch.documents, batch.places, batch.targets))
    torch.manual_seed(0)
    noisy = Noise(0.5, torch.device("cpu"))(ids, documents, places, targets)
    changed = noisy != ids
    written = set(targets[targets != IGNORED].tolist())
    assert changed.any()
    assert not written & set(ids[changed].tolist())
    before, after = (tokenizer.load().decode(tokens[changed].tolist()) for tokens in (ids, noisy))
    assert before.isascii() == after.isascii() or language == "zh"
    assert not any(mark in before for mark in "<>|.,，。")


def test_dropout_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(200, 100)
    assert torch.equal(dropped(x, torch.zeros(())), x) and dropped(x, None) is x
    some = dropped(x, torch.tensor(0.2))
    assert set(some.unique().tolist()) == {0.0, 1.25} and abs(float(some.mean()) - 1) < 0.02
