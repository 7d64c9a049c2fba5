"""What the files of a checkpoint say about generating."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.chat.checkpoints import byte_level_json, sentencepiece_json, write_checkpoint

from tokenwell.chat.defaults import Defaults
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.wire.errors import CheckpointError


def load(tmp_path: Path, tokenizer: str | None = None, **files: Any) -> Defaults:
    write_checkpoint(tmp_path, tokenizer or sentencepiece_json(), **files)
    return Defaults.load(tmp_path, Tokenizer.load(tmp_path))


def test_neutral_without_files(tmp_path: Path) -> None:
    assert load(tmp_path) == Defaults()


def test_sampling_values_hold_whatever_do_sample_says(tmp_path: Path) -> None:
    generation = {
        "do_sample": False,
        "temperature": 0.6,
        "top_p": 0.95,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.05,
        "max_new_tokens": 2048,
        "suppress_tokens": [9, 7, 9],
    }
    found = load(tmp_path, generation_config=generation)
    assert (found.temperature, found.top_p, found.top_k, found.min_p) == (0.6, 0.95, 20, 0.05)
    assert (found.repetition_penalty, found.max_new_tokens, found.suppress_tokens) == (1.05, 2048, (7, 9))


def test_null_is_absent_and_minus_one_is_all(tmp_path: Path) -> None:
    generation = {"temperature": None, "top_k": -1, "top_p": 1, "max_new_tokens": None, "eos_token_id": None}
    assert load(tmp_path, generation_config=generation) == Defaults()


def test_greedy_temperature_stays(tmp_path: Path) -> None:
    assert load(tmp_path, generation_config={"temperature": 0}).temperature == 0.0


def test_stop_ids_come_from_every_place(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        tokenizer_config={"eos_token": "</s>"},
        generation_config={"eos_token_id": [31, 30]},
        config={"eos_token_id": 32, "text_config": {"eos_token_id": [33, 31]}},
    )
    assert found.stop_ids == (2, 30, 31, 32, 33)


def test_end_of_turn_tokens_of_the_vocabulary_stop(tmp_path: Path) -> None:
    found = load(tmp_path, byte_level_json(), config={"eos_token_id": 0})
    assert found.stop_ids == (0, 2)  # <|endoftext|> because it is the eos, <|im_end|> by name; <|im_start|> is none
    assert load(tmp_path, byte_level_json(), config={"eos_token_id": None}).stop_ids == (2,)


def test_the_same_letters_as_ordinary_vocabulary_do_not_stop(tmp_path: Path) -> None:
    raw = json.loads(sentencepiece_json())
    raw["model"]["vocab"]["<|im_end|>"] = len(raw["model"]["vocab"]) + 10
    assert load(tmp_path, json.dumps(raw)).stop_ids == ()


def test_context_length(tmp_path: Path) -> None:
    assert load(tmp_path, config={"max_position_embeddings": 4096}).context_length == 4096
    nested = {"max_position_embeddings": 1, "text_config": {"max_position_embeddings": 131072}}
    assert load(tmp_path, config=nested, tokenizer_config={"model_max_length": 512}).context_length == 131072


@pytest.mark.parametrize(
    "generation",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"temperature": True},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"top_k": 2.5},
        {"top_k": -2},
        {"min_p": -0.1},
        {"max_new_tokens": 0},
        {"eos_token_id": "</s>"},
        {"eos_token_id": [1, "x"]},
        {"eos_token_id": [True]},
        {"eos_token_id": -1},
        {"suppress_tokens": {}},
    ],
)
def test_wrong_values_name_the_file_and_field(tmp_path: Path, generation: dict[str, Any]) -> None:
    (field,) = generation
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {field} is "):
        load(tmp_path, generation_config=generation)


def test_broken_files_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: is not valid JSON"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json: text_config is 3"):
        load(tmp_path, generation_config={}, config={"text_config": 3})
