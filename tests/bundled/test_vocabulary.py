"""The scripted engine's tokenizer: learned as it should be, and no text is lost in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tokenwell.bundled.scripted import MARKS, files
from tokenwell.bundled.vocabulary import learn

TOKENIZER = Tokenizer.from_str(files()["tokenizer.json"].decode())


@given(text=st.text())
def test_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_english_takes_few_tokens() -> None:
    assert len(TOKENIZER.encode("The people came for water and then they went back to work.").ids) <= 20


def test_every_mark_is_one_token() -> None:
    assert all(len(TOKENIZER.encode(mark).ids) == 1 for mark in MARKS)


def test_learning_more_than_the_corpus_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="the corpus gives only 259 tokens, not 300"):
        learn("abc abc", 300)


def test_the_most_frequent_pair_is_merged_first_and_ties_go_by_order() -> None:
    _, merges = learn("ab ab ba ba ba", 258)  # " ba" three times: ("b", "a") and ("Ġ", "b") are as frequent
    assert merges == [("b", "a"), ("Ġ", "ba")]
