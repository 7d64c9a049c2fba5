"""Values: what a request says and what the call has belong together."""

import re
from random import Random

import pytest
from training import kinds, pseudo
from training.clock import number_word
from training.kinds import draw
from training.world import Parameter, World

WORLD = World.load("train", ("en",))
WORDS = WORLD.language("en")


def _many(kind: str, count: int = 200) -> list[kinds.Value]:
    random = Random(3)
    return [draw(random, WORDS, kind) for _ in range(count)]


@pytest.mark.parametrize("kind", ["id", "path", "file", "url", "email", "phone", "date", "time", "duration", "city", "text"])
def test_a_text_is_given_as_it_is_said(kind: str) -> None:
    for value in _many(kind):
        assert value.given == value.said
        assert value.said == value.said.strip() != ""


def test_a_moment_is_given_without_its_preposition() -> None:
    for value in _many("moment", 500):
        assert value.said in (value.given, f"at {value.given}", f"on {value.given}")
        assert not value.given.startswith(("at ", "on "))


def test_numbers_are_given_as_numbers() -> None:
    for value in _many("small"):
        word_or_digits = number_word("en", value.given) if value.said.isalpha() else str(value.given)
        assert value.said == word_or_digits
    assert all(value.said == str(value.given) for value in _many("amount"))
    assert all(re.fullmatch(rf"{value.given}(%| percent)", value.said) for value in _many("percent"))


def test_a_list_is_said_so_that_it_can_be_taken_apart() -> None:
    for value in _many("list:city"):
        assert re.split(r", and |, | and ", value.said) == value.given
        assert 1 <= len(value.given) <= 4


def test_a_third_of_the_entities_is_known() -> None:
    known = sum(value.said in WORDS.names["city"] for value in _many("city", 2000))
    assert 0.25 < known / 2000 < 0.45


def test_an_enum_is_said_in_its_own_words() -> None:
    parameter = Parameter("p", ("mode",), "enum", values=("night_mode", "AUTO_ON", "eco"))
    for _ in range(100):
        value = draw(Random(_), WORDS, "enum", parameter)
        assert value.said.lower().replace(" ", "_") == value.given.lower(), value
    spoken = Parameter("p", ("unit",), "enum", values=("kg", "lb"), spoken=("kilograms", "pounds"))
    assert {(value.said, value.given) for value in (draw(Random(seed), WORDS, "enum", spoken) for seed in range(30))} == {
        ("kilograms", "kg"),
        ("pounds", "lb"),
    }


def test_a_flag_is_said_by_its_clauses() -> None:
    parameter = Parameter("p", ("view",), "flag", yes=(" with a view",), no=(" without a view",))
    for seed in range(30):
        value = draw(Random(seed), WORDS, "flag", parameter)
        assert value.said == (" with a view" if value.given else " without a view")


def test_a_day_without_on_loses_it() -> None:
    frame = ("see you on ", "date", "")
    texts = {kinds.compose(Random(seed), WORDS, frame) for seed in range(300)}
    assert "see you tomorrow" in texts
    assert not any(text.startswith("see you on to") for text in texts)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="no kind unicorn"):
        draw(Random(1), WORDS, "unicorn")


def test_invented_words_keep_the_shape_of_a_name() -> None:
    random = Random(5)
    for _ in range(200):
        name = pseudo.reword(random, "Blue Lantern")
        assert name != "Blue Lantern" or len(name.split()) == 2
        assert all(part[0].isupper() for part in name.split())
    assert len(set(pseudo.HAN)) == 3755
    assert pseudo.word(Random(9)) == pseudo.word(Random(9))
