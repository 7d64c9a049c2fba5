"""Tokenizer files as the grammar library gets them: gaps, padding, tokens that only the config knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tests.tiny.tokenizer import special_ids, tokenizer_json

from tokenwell.engine.run.grammar import GrammarError, Grammars
from tokenwell.engine.run.vocabulary import VocabularyError, describe


def write(folder: Path, change: Any = None, **config: Any) -> dict[str, Any]:
    """The tokenizer files of the Qwen family after `change`; the tokenizer.json as it was written."""
    tokenizer: dict[str, Any] = json.loads(tokenizer_json("qwen"))
    if change is not None:
        change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def size(tokenizer: dict[str, Any]) -> int:
    return 1 + max(*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"]))


def known(folder: Path, width: int) -> tuple[LLTokenizer, int]:
    return Grammars(folder, width).tokenizer


@pytest.mark.parametrize("padding", [-20, 0, 1, 500, 150_000])
def test_the_end_lies_behind_every_token(tmp_path: Path, padding: int) -> None:
    """And as many logits behind it as the model likes: a published config beside a small tokenizer."""
    count = size(write(tmp_path))
    tokenizer, end = known(tmp_path, count + padding)
    assert end == count and tokenizer.vocab_size == max(count + padding, end + 1)
    assert tokenizer.eos_token == end
    assert tokenizer.decode_str(tokenizer.tokenize_str("Größe, 世界")) == "Größe, 世界"
    octets = np.frombuffer(LLMatcher(tokenizer, "start: /(?s:.)*/").compute_bitmask(), dtype=np.uint8)
    allowed = np.unpackbits(octets, bitorder="little")[: tokenizer.vocab_size]
    assert allowed[:count].any() and allowed[end] and not allowed[end + 1 :].any()


def test_tokens_that_only_the_config_declares_behind_the_logits_are_left_out(tmp_path: Path) -> None:
    """The small model of a family, with the large ones' config."""
    count = size(write(tmp_path))
    write(tmp_path, added_tokens_decoder={"151643": {"content": "<|late|>", "special": True}})
    assert known(tmp_path, count)[1] == count


def test_tokens_keep_their_ids_where_the_vocabulary_has_gaps(tmp_path: Path) -> None:
    def move(tokenizer: dict[str, Any]) -> None:
        for token in tokenizer["added_tokens"]:
            token["id"] += 50
            tokenizer["model"]["vocab"][token["content"]] = token["id"]

    count = size(write(tmp_path, move))
    tokenizer, _ = known(tmp_path, count)
    moved = special_ids("qwen")["<tool_call>"] + 50
    assert tokenizer.decode_str([moved]) == "<tool_call>"
    matcher = LLMatcher(tokenizer, f"start: <[{moved}]> /[0-9]+/ <|im_end|>")
    assert matcher.consume_token(moved) and not matcher.is_error()


@pytest.mark.parametrize("mark", ["<tool_call>", "<｜tool▁sep｜>", "<a b>"])
def test_a_mark_that_is_not_special_is_text(tmp_path: Path, mark: str) -> None:
    def add(tokenizer: dict[str, Any]) -> None:
        id = size(tokenizer)
        tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != mark]
        tokenizer["added_tokens"].append(dict(tokenizer["added_tokens"][0], id=id, content=mark, special=False))
        tokenizer["model"]["vocab"].pop(mark, None)

    count = size(write(tmp_path, add))
    tokenizer, _ = known(tmp_path, count)
    id = count - 1
    assert tokenizer.decode_str([id]) == mark and not tokenizer.is_special_token(id)
    for grammar in (f'start: {json.dumps(mark)} "x"', "start: /(?s:.+)/", f"start: <[{id}]>"):
        assert LLMatcher(tokenizer, grammar).try_consume_tokens([id]) == 1


def test_a_token_that_only_the_config_declares_can_be_named(tmp_path: Path) -> None:
    count = size(write(tmp_path))
    declared = {str(count): {"content": "<|late|>", "special": True}, "0": {"content": "!", "special": True}}
    write(tmp_path, added_tokens_decoder=declared)
    tokenizer, end = known(tmp_path, count + 1)
    assert end == count + 1
    assert tokenizer.is_special_token(count) and not tokenizer.is_special_token(0)
    assert LLMatcher(tokenizer, "start: <|late|>").consume_token(count)


def test_a_named_token_is_special_wherever_it_is(tmp_path: Path) -> None:
    vocabulary = write(tmp_path)["model"]["vocab"]
    write(tmp_path, eos_token={"content": "a"}, pad_token="nobody has it", additional_special_tokens=["b"])
    tokenizer, _ = known(tmp_path, 400)
    assert [tokenizer.is_special_token(vocabulary[letter]) for letter in "abc"] == [True, True, False]


def test_a_unigram_vocabulary_is_filled_as_well(tmp_path: Path) -> None:
    pieces = [["<unk>", 0.0], *([letter, -1.0] for letter in "▁abc")]

    def unigram(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"] = [token | {"id": 5 + place} for place, token in enumerate(tokenizer["added_tokens"][:1])]
        tokenizer["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
        tokenizer["decoder"] = tokenizer["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}

    write(tmp_path, unigram)
    tokenizer, end = known(tmp_path, 10)
    assert end == 6
    matcher = LLMatcher(tokenizer, 'start: "ab"')
    assert matcher.consume_token(2) and matcher.consume_token(3) and matcher.is_accepting()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": {"vocab": {"a": "b"}}}'])
def test_unusable_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(VocabularyError, match=r"tokenizer\.json"):
        describe(tmp_path, 10)
    with pytest.raises(GrammarError, match=r"because of its tokenizer.*tokenizer\.json"):
        Grammars(tmp_path, 10).compile('start: "a"')


def test_a_checkpoint_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(GrammarError, match=r"tokenizer\.json: no such file"):
        Grammars(tmp_path, 10).compile('start: "a"')
