"""Copying a word is copying its tokens, wherever it stands; any text comes back as it was."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training import tokenizer
from training.model import Shape
from training.pseudo import HAN

from tokenwell.chat.tokenizer import Tokenizer as Served

LOADED = tokenizer.load()


def pieces(text: str) -> list[str]:
    return list(LOADED.encode(text, add_special_tokens=False).tokens)


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    assert LOADED.decode(LOADED.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("name", ["weather", "velmora", "Weather", "HTTP", "图书馆", "x7f2"])
@pytest.mark.parametrize(
    "frame",
    ["{}", " {}", "get_{}", "{}_now", '"{}"', "({})", "say {}, please", "在{}。", "7{}", '<|"|>{}<|"|>', "\n{}\n"],
)
def test_a_word_is_cut_the_same_way_wherever_it_stands(name: str, frame: str) -> None:
    own, there = pieces(name), pieces(frame.format(name))
    assert any(there[start : start + len(own)] == own for start in range(len(there)))


def test_humps_and_underscores_share_their_pieces() -> None:
    assert pieces("get_user_name") == [*pieces("get"), "_", *pieces("user"), "_", *pieces("name")]
    assert pieces("getUserName") == pieces("get") + pieces("User") + pieces("Name")
    assert pieces("HTTPServer") == pieces("HTTP") + pieces("Server")


def test_digits_and_everyday_characters_are_one_token_each() -> None:
    assert len(pieces("2026-03-04")) == 10
    assert len(pieces(HAN)) == len(HAN) == 3755
    assert len(pieces(tokenizer.MARKS)) == len(tokenizer.MARKS)
    for part in (*tokenizer.FORMAT, *tokenizer.SPECIAL):
        assert len(pieces(part)) == 1, part


def test_the_size_is_the_models() -> None:
    vocabulary = LOADED.get_vocab()
    assert sorted(vocabulary.values()) == list(range(Shape.load().vocabulary))
    assert len(tokenizer.SPECIAL) == len(LOADED.get_added_tokens_decoder())


def test_the_same_words_give_the_same_tokenizer() -> None:
    words = Counter({"weather": 5, "reminder": 3, "forecast": 2, "description": 9})
    assert tokenizer.build(words).to_str() == tokenizer.build(words).to_str()


def test_the_service_reads_the_same_tokens(checkpoint: Path) -> None:
    served = Served.load(checkpoint)
    text = "<bos><|turn>user\n天气 in Velmora-7 🙂 é<turn|>\n"
    ids = served.encode(text, add_special_tokens=False)
    assert ids == tokenizer.encode([text])[0]
    assert b"".join(map(served.token_bytes, ids)).decode() == text
    assert served.special == dict(zip(tokenizer.SPECIAL, range(len(tokenizer.SPECIAL)), strict=True))
