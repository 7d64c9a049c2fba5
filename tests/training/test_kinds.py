"""Values: what a request says and what the call has belong together."""

import re
from random import Random

import pytest
from training import kinds, pseudo
from training.clock import number_word
from training.kinds import draw
from training.world import LANGUAGES, Parameter, World

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


@pytest.mark.parametrize(
    ("kind", "bounds", "form"),
    [
        ("count", (105, 175), r"{}"),
        ("percent", (2, 9), r"{}(%| percent)"),
        ("small", (2, 7), r"{}|two|three|four|five|six|seven"),
        ("degrees", (12, 28), r"{}"),
        ("amount", (0.5, 25), r"{}"),
        ("amount", (20000, 900000), r"{}"),
    ],
)
def test_a_number_stays_within_the_bounds_of_its_parameter(kind: str, bounds: tuple[float, float], form: str) -> None:
    parameter = Parameter("p", ("p",), kind, bounds=bounds)
    values = [draw(Random(seed), WORDS, kind, parameter) for seed in range(200)]
    assert all(bounds[0] <= value.given <= bounds[1] for value in values)
    assert all(re.fullmatch(form.format(value.given), value.said) for value in values)
    assert len({value.given for value in values}) > 5


def test_a_default_is_declared() -> None:
    assert kinds.schema(Parameter("p", ("p",), "flag", default=False)) == {"type": "boolean", "default": False}
    assert kinds.schema(Parameter("p", ("p",), "percent", default=0)) == {"type": "integer", "default": 0}
    assert kinds.schema(Parameter("p", ("p",), "count")) == {"type": "integer"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_some_days_and_times_can_be_but_one(language: str) -> None:
    words = World.load("held").language(language)
    coming, past, times = (
        {draw(Random(seed), words, kind).said for seed in range(400)} for kind in ("booked_day", "past_day", "clear_time")
    )
    assert not coming & {"tonight", "last night", "next week", "this weekend", "今晚", "明晚", "昨晚", "下周", "这周末"}
    assert not any("2025" in text or "2026" in text for text in coming)
    assert not any("2027" in text or "2028" in text for text in past)
    assert past & {"last night", "昨晚"}
    assert any(text.startswith("20 ") for text in coming) or language == "zh"  # a day, where a year begins others
    assert [text for text in coming if re.match("20[0-9][0-9][^-年]", text)] == []
    clear = re.compile(
        "上午([八九十]|十一|[89]|1[01])点|下午([一两三四五六]|[1-6])点|晚上([七八九十]|十一|[7-9]|1[01])点|[0-2][0-9]:"
    )
    assert language == "en" or [text for text in times if not clear.match(text)] == []


def test_a_host_and_a_picture_have_no_more_than_they_need() -> None:
    assert not any("/" in value.said or ":" in value.said for value in _many("hostname"))
    assert all(value.said.endswith((".png", ".jpg", ".webp")) for value in _many("picture"))


def test_a_list_is_said_so_that_it_can_be_taken_apart() -> None:
    for value in _many("list:city"):
        assert re.split(r", and |, | and ", value.said) == value.given
        assert 1 <= len(value.given) <= 4


def test_entities_are_known_as_often_as_their_shares_say() -> None:
    known = sum(value.said in WORDS.names["city"] for value in _many("city", 2000))
    assert abs(known / 2000 - (1 - kinds.INVENTED - kinds.SHAPED - kinds.STRETCHED)) < 0.04


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
