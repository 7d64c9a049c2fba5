"""Requests typed in haste."""

from random import Random

from training.slips import slipped

FRAME = ("Don't let ", "room", " get colder than ", "degrees", " degrees tonight")


def test_values_stay_and_words_stay_nearly_the_same() -> None:
    changed = 0
    for seed in range(200):
        made = slipped(Random(seed), FRAME)
        assert made[1::2] == FRAME[1::2] and len(made) == len(FRAME)
        text, plain = "".join(made[::2]), "".join(FRAME[::2])
        changed += text != plain
        assert abs(len(text) - len(plain)) <= 6 and text.count(" ") == plain.count(" ")
    assert 100 < changed < 200


def test_short_words_are_typed_right() -> None:
    assert all(slipped(Random(seed), ("Is it on at ", "time", "?")) == ("Is it on at ", "time", "?") for seed in range(50))
