"""The tiny checkpoints themselves: repeatable, nothing neutral in them, and readable by what reads published ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import Reference, Tiny
from tests.tiny.build import build
from tests.tiny.recipes import RECIPES, VOCABULARY
from tests.tiny.reference import logprobs
from tests.tiny.tokenizer import FAMILIES, eos_ids, special_ids
from tokenizers import Tokenizer

NOT_MXFP4 = [name for name, recipe in RECIPES.items() if not recipe.mxfp4]
PROMPT = [(37 * index + 11) % 330 for index in range(30)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("name", ["llama3", "gemma4-wrapped", "gpt-oss-mxfp4"])
def test_built_twice_it_is_the_same(tiny: Tiny, tmp_path: Path, name: str) -> None:
    again = build(name, tmp_path)
    for file in tiny(name).iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", RECIPES)
def test_no_tensor_is_neutral(tiny: Tiny, name: str) -> None:
    for key, tensor in tensors(tiny(name)).items():
        values = tensor.float()
        assert values.isfinite().all()
        assert not (values == 0).all(), key
        assert not (values == 1).all(), key


@pytest.mark.parametrize("name", NOT_MXFP4)
def test_hub_style_configs_mean_the_same_to_transformers(tiny: Tiny, name: str) -> None:
    assert (tiny(name) / "config.json").read_text() != (tiny(name, hub_style=True) / "config.json").read_text()
    assert torch.equal(logprobs(tiny(name), PROMPT), logprobs(tiny(name, hub_style=True), PROMPT))


@pytest.mark.parametrize("name", RECIPES)
def test_continuations_vary_and_are_decided_clearly(reference: Reference, name: str) -> None:
    tokens, table = reference(name, PROMPT, 48)
    assert table.shape == (len(PROMPT) + 48, VOCABULARY)
    assert len(set(tokens)) > 16
    best = table[len(PROMPT) - 1 : -1].topk(2)
    assert best.indices[:, 0].tolist() == tokens
    assert (best.values[:, 0] - best.values[:, 1]).min() > 1e-4


@pytest.mark.parametrize("name", ["mistral-sliding", "qwen2-sliding", "gemma4-e", "gemma4-moe", "gemma4-dense", "gpt-oss"])
def test_the_window_matters(tiny: Tiny, tmp_path: Path, name: str) -> None:
    wider = tmp_path / name
    wider.mkdir()
    for file in tiny(name).iterdir():
        (wider / file.name).symlink_to(file)
    config = json.loads((tiny(name) / "config.json").read_text())
    (wider / "config.json").unlink()
    (wider / "config.json").write_text(json.dumps({**config, "sliding_window": 1000}))
    narrow, wide = logprobs(tiny(name), PROMPT), logprobs(wider, PROMPT)
    first = config["sliding_window"]
    assert torch.allclose(narrow[:first], wide[:first], atol=1e-4)
    assert (narrow[first:] - wide[first:]).abs().amax(1).min() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizers_round_trip_and_know_their_special_tokens(tiny: Tiny, family: str) -> None:
    folder = tiny(next(name for name, recipe in RECIPES.items() if recipe.family == family))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() < VOCABULARY
    text = "Grüße, 你好 🙂\n  def f(x): return x"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    for token, number in special_ids(family).items():
        assert tokenizer.encode(token).ids == [number]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == eos_ids(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_the_tokenizer_and_its_template(tiny: Tiny, family: str) -> None:
    import transformers

    folder = tiny(next(name for name, recipe in RECIPES.items() if recipe.family == family))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "More"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    for message in messages:
        assert message["content"] in text
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert any(number in special_ids(family).values() for number in ids)
