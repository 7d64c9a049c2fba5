"""Loading tokenizers and single tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.chat.checkpoints import byte_level_json, sentencepiece_json, word_level_json, word_piece_json, write_checkpoint

from tokenwell.chat.conversation import ChatError
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.wire.errors import CheckpointError


def load(tmp_path: Path, tokenizer: str, **files: object) -> Tokenizer:
    return Tokenizer.load(write_checkpoint(tmp_path / "checkpoint", tokenizer, **files))


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"model": 3}', b"\xff\xfe", byte_level_json().encode()[:-200]])
def test_broken_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("config", ["{", "[]", '{"added_tokens_decoder": {"x": "y"}}', '{"added_tokens_decoder": {"7": 3}}'])
def test_broken_tokenizer_config_is_named(tmp_path: Path, config: str) -> None:
    write_checkpoint(tmp_path, byte_level_json())
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_special_tokens_in_text_become_their_ids(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level_json())
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>", add_special_tokens=False)
    assert ids[0] == tokenizer.id_of("<|im_start|>")
    assert ids[-1] == tokenizer.id_of("<|im_end|>")
    assert tokenizer.special_ids == {tokenizer.id_of(text) for text in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nhi"


def test_add_special_tokens_adds_what_the_tokenizer_was_made_to_add(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, sentencepiece_json())
    with_bos = tokenizer.encode("the", add_special_tokens=True)
    assert with_bos == [tokenizer.id_of("<s>"), *tokenizer.encode("the", add_special_tokens=False)]


def test_training_truncation_and_padding_are_ignored(tmp_path: Path) -> None:
    raw = json.loads(byte_level_json())
    raw["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    raw["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    tokenizer = load(tmp_path, json.dumps(raw))
    ids = tokenizer.encode("zzzzzzzzzz", add_special_tokens=True)
    assert tokenizer.decode(ids, skip_special_tokens=False) == "zzzzzzzzzz"


def test_names_come_from_the_config_and_then_from_the_legacy_map(tmp_path: Path) -> None:
    tokenizer = load(
        tmp_path,
        byte_level_json(),
        tokenizer_config={"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": None},
        special_tokens_map={"eos_token": "<|endoftext|>", "bos_token": "<|im_start|>", "pad_token": {"content": "<|endoftext|>"}},
    )
    assert tokenizer.named == {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "pad_token": "<|endoftext|>"}
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")


def test_a_token_called_special_by_the_config_only_behaves_so(tmp_path: Path) -> None:
    raw = json.loads(sentencepiece_json())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "</s>"]
    tokenizer = load(tmp_path, json.dumps(raw), tokenizer_config={"eos_token": "</s>", "pad_token": "[not there]"})
    eos = tokenizer.id_of("</s>")
    assert tokenizer.encode("in</s>", add_special_tokens=False)[-1] == eos
    assert eos in tokenizer.special_ids
    assert tokenizer.id_of("[not there]") is None


def test_tokens_that_only_the_config_declares_get_their_ids(tmp_path: Path) -> None:
    size = Tokenizer.load(write_checkpoint(tmp_path / "plain")).vocab_size
    declared = {
        str(size + 1): {"content": "<b>"},
        str(size): {"content": "<a>", "special": True},
        "0": {"content": "<|endoftext|>"},
    }
    tokenizer = load(tmp_path, byte_level_json(), tokenizer_config={"added_tokens_decoder": declared})
    assert tokenizer.encode("<a><b>", add_special_tokens=False) == [size, size + 1]
    assert size in tokenizer.special_ids
    assert tokenizer.vocab_size == size + 2


def test_a_declared_id_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'<a>' is declared with id 9999"):
        load(tmp_path, byte_level_json(), tokenizer_config={"added_tokens_decoder": {"9999": {"content": "<a>"}}})


def test_vocab_size_is_above_every_id_even_with_holes(tmp_path: Path) -> None:
    raw = json.loads(word_level_json())
    raw["model"]["vocab"]["far"] = 41
    assert load(tmp_path, json.dumps(raw)).vocab_size == 42


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, byte_level_json())
    with pytest.raises(ChatError, match=r"U\+D800\) at character 2"):
        tokenizer.encode("ab\ud800", add_special_tokens=False)


@pytest.mark.parametrize("id", [-1, 2**40])
def test_ids_that_are_no_ids(tmp_path: Path, id: int) -> None:
    tokenizer = load(tmp_path, byte_level_json())
    with pytest.raises(ChatError, match="token id"):
        tokenizer.decode([id], skip_special_tokens=False)
    assert tokenizer.token_bytes(id) == b""
    assert tokenizer.token_text(tokenizer.vocab_size + 5) == ""


def test_token_bytes_are_exact(tmp_path: Path) -> None:
    byte_level = load(tmp_path / "a", byte_level_json())
    smile = byte_level.encode("🙂é ", add_special_tokens=False)
    assert b"".join(map(byte_level.token_bytes, smile)) == "🙂é ".encode()
    assert byte_level.token_text(byte_level.encode("é", add_special_tokens=False)[0]) in ("é", "\ufffd")
    pieces = load(tmp_path / "b", sentencepiece_json())
    assert pieces.token_bytes(pieces.id_of("▁the") or 0) == b" the"
    assert pieces.token_bytes(pieces.id_of("<0xE6>") or 0) == b"\xe6"
    assert pieces.token_text(pieces.id_of("<0xE6>") or 0) == "\ufffd"
    words = load(tmp_path / "c", word_level_json())
    assert words.token_text(words.id_of("你好") or 0) == "你好"
    joined = load(tmp_path / "d", word_piece_json())
    assert joined.spelling is None
    assert joined.token_bytes(joined.id_of("play") or 0) == b"play"


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_checkpoint(tmp_path_factory.mktemp("byte_level")))


@given(st.text(max_size=60))
def test_byte_level_token_bytes_spell_every_text(byte_level: Tokenizer, text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return
    ids = byte_level.encode(text, add_special_tokens=False)
    assert b"".join(byte_level.token_bytes(id) for id in ids) == data
