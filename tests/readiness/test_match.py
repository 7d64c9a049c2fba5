"""What is the same for a careful user, and when a text has a word."""

import pytest

from tokenwell.readiness.match import argument_has, found, has_words, same, silent


def test_equality_is_strict_in_types_and_mild_in_texts() -> None:
    assert same("The kiln is warm", "the kiln is warm.") and same("窑还热着", "窑还热着。")
    assert same(12, 12.0) and not same(1, True) and not same("12", 12) and not same(12, "12")
    assert same(["a", "b"], ["A", "b"]) and not same(["a", "b"], ["b", "a"])
    assert same({"a": 1}, {"a": 1}) and not same({"a": 1}, {"a": 1, "b": 2})
    assert same("notes.md", "./notes.md", is_path=True) and not same("notes.md", "Notes.md", is_path=True)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("33 Pilgrim's Way", "33 Pilgrim’s Way"),
        ("atlas/floorplan.sql", "./atlas/floorplan.sql"),
        ("16:50", "16：50"),
        ("最后的信号员", "《最后的信号员》"),
        ("July 6", "6 July"),
        (["6 pm"], ["18:00"]),
        ("#45534", "45534"),
    ],
)
def test_ways_of_writing_that_make_no_difference(expected: object, given: object) -> None:
    assert same(expected, given)


@pytest.mark.parametrize(
    ("expected", "given"),
    [("Ysolde Kerr", '"Ysolde Kerr"'), ("atlas/a.sql", "../atlas/a.sql"), ("tomorrow", "2026-11-22"), ("#a4", "a4")],
)
def test_ways_that_do(expected: str, given: str) -> None:
    assert not same(expected, given)


def test_zero_and_false_say_something_unless_they_are_the_default() -> None:
    assert all(silent(value, {}) for value in (None, "", [], {}))
    assert not any(silent(value, {}) for value in (0, False, "none", [""]))
    assert silent(False, {"default": False}) and silent(0, {"default": 0}) and not silent(0, {"default": False})


def test_words_are_found_in_any_width_and_case() -> None:
    assert has_words("Don’t ２０ Percent", (("don't",), ("20",)))
    assert not has_words("rain", (("rain",), ("snow", "hail")))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("It is rainy.", "rain"),
        ("You don't need one", "n't"),
        ("It comes in 1,000 minutes.", "1000"),
        ("That is 56.00 each", "56"),
        ("Each pays 56.00.", "56"),
        ("That is 49.50 each", "49.5"),
        ("100 of them", "100"),
        ("seven days are left", "7"),
        ("还剩七天", "7"),
        ("挂好了，五号。", "5"),
        ("要10分钟", "10"),
        ("Which one?", "?"),
    ],
)
def test_a_word_is_found(text: str, word: str) -> None:
    assert found(text, word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Now I know enough.", "no"),
        ("It was dry yesterday.", "yes"),
        ("nothing", "not"),
        ("by mistake", "take"),
        ("in 2026", "20"),
        ("index 160", "60"),
        ("at 18:00", "18"),
        ("1.56 each", "56"),
        ("No one knows", "1"),
        ("关于用不用带伞：要带", "不用带"),
        ("Done! Anything else I can do?", "?"),
        ("办好了，还需要别的吗？", "?"),
    ],
)
def test_a_part_of_another_word_is_none(text: str, word: str) -> None:
    assert not found(text, word)


def test_a_fact_that_is_a_time_may_be_written_otherwise() -> None:
    assert has_words("It leaves at 8:40 pm.", (("20:40",),)) and not has_words("It leaves at 8:40 am.", (("20:40",),))


def test_an_argument_is_a_text() -> None:
    assert argument_has("Take an umbrella", (("umbrella",),)) and not argument_has(["umbrella"], (("umbrella",),))
