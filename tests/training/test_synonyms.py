"""Words in place of others."""

from random import Random

from training.synonyms import Synonyms
from training.world import World

TABLE = Synonyms({"photo": ["picture", "image"], "show me": ["let me see"], "删除": ["去掉"]}, "en")


def test_phrases_and_words_are_replaced_and_keep_their_case() -> None:
    assert TABLE.vary(Random(1), "Show me the tab", share=1) == "Let me see the tab"
    assert TABLE.vary(Random(1), "photos of a photon", share=1) == "photos of a photon"


def test_an_article_fits_what_follows() -> None:
    made = {TABLE.vary(Random(seed), "Take a photo", share=1) for seed in range(20)}
    assert made == {"Take a picture", "Take an image"}


def test_an_article_fits_where_it_ends_a_phrase() -> None:
    table = Synonyms({"i need a": ["I want a"], "photo": ["image"]}, "en")
    assert table.vary(Random(1), "I need a photo", share=1) == "I want an image"


def test_chinese_needs_no_blanks() -> None:
    assert Synonyms({"删除": ["去掉"]}, "zh").vary(Random(1), "请删除文件", share=1) == "请去掉文件"


def test_nothing_is_replaced_without_a_table() -> None:
    assert Synonyms({}, "en").vary(Random(1), "Show me", share=1) == "Show me"
    assert Synonyms({}, "en").word(Random(1), "photo") == "photo"


def test_no_marker_of_free_text_is_replaced() -> None:
    words = World.load("train", ("en",)).language("en")
    markers = {marker for found in words.frames["markers"].values() for marker in found}
    assert not markers & set(words.frames["synonyms"])
