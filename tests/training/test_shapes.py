"""Names in all shapes, and declarations that say things in another way."""

from random import Random

import pytest
from training import tools
from training.details import recoded, restyled
from training.kinds import draw
from training.shapes import shape, stretched
from training.single import loosened
from training.world import Parameter, ToolWords, World, frames

WORLD = World.load("train")


@pytest.mark.parametrize("language", WORLD.languages)
def test_shapes_are_filled(language: str) -> None:
    words, random = WORLD.language(language), Random(1)
    made = [shape(random, words, place % 2 == 0) for place in range(500)]
    assert len(set(made)) > 400
    assert not any("<" in text or ">" in text or text != text.strip() or not text for text in made)
    if language == "en":
        assert all(text[0].isupper() or text[0].isdigit() for text in made[::2])


@pytest.mark.parametrize("language", WORLD.languages)
def test_a_known_name_is_stretched(language: str) -> None:
    words, random = WORLD.language(language), Random(2)
    name = "Blue Lantern" if language == "en" else "蓝灯笼"
    made = {stretched(random, words, name) for _ in range(100)}
    assert any(name in text and text != name for text in made) and any(len(text) < len(name) for text in made)


def test_enum_values_in_another_style_are_said_in_the_same_words() -> None:
    words = WORLD.language("en")
    heat = Parameter("heat", ("heat",), "enum", True, values=("bottom_heat", "grill"))
    tool = ToolWords(("warm",), ("Warms.",), frames(["Warm with {heat}"]), (heat,), key="warm")
    seen = set()
    for seed in range(60):
        made = restyled(Random(seed), tool)
        seen |= set(made.parameters[0].values)
        value = draw(Random(seed), words, "enum", made.parameters[0])
        assert value.given in made.parameters[0].values
        assert value.said.lower().replace("_", "").replace("-", "").replace(" ", "") in ("bottomheat", "grill")
    assert {"BOTTOM_HEAT", "bottomHeat", "bottom-heat", "bottom heat"} <= seen


def test_other_codes_stand_for_the_same_spoken_values() -> None:
    words = WORLD.language("zh")
    known = ("credit_card", "cash", "transfer")
    pay = Parameter("pay", ("pay",), "enum", True, descriptions=("付款方式",), values=known, spoken=("信用卡", "现金", "转账"))
    tool = ToolWords(("settle",), ("结账。",), frames(["用{pay}结账"]), (pay,), key="settle")
    for seed in range(60):
        made = recoded(Random(seed), tool)
        codes = made.parameters[0].values
        assert len(set(codes)) == 3 and not set(codes) & set(known)
        declared = tools.declare(Random(seed), words, made)
        (told,) = declared.declaration["function"]["parameters"]["properties"].values()
        (value,) = tools.ask(Random(seed), words, declared).values.values()
        assert value.given in told["enum"] and f"{value.given}（{value.said}）" in told["description"]


def test_what_is_not_required_may_be_left_out() -> None:
    words = WORLD.language("en")
    place, day = Parameter("place", ("place",), "place", True), Parameter("day", ("day",), "date", True)
    whole, short = frames(["Show {place} on {day}"]), frames(["Show {place}"])
    tool = ToolWords(("show",), ("Shows.",), whole, (place, day), incomplete=short, key="show")
    calls = set()
    for seed in range(40):
        declared = tools.declare(Random(seed), words, loosened(Random(seed), tool))
        assert declared.declaration["function"]["parameters"]["required"] == [declared.spelled["place"]]
        calls.add(len(tools.ask(Random(seed), words, declared).arguments))
    assert calls == {1, 2}
