"""What a condition or a piece of advice says agrees with the result that was returned."""

from random import Random

import pytest
from training import conditions
from training.scene import Scene
from training.world import World

WORLD = World.load("train")
LANGUAGES = [language for language in WORLD.languages if "conditions" in WORLD.language(language).pages]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_comparison_holds_as_the_numbers_do(language: str) -> None:
    seen = set()
    for seed in range(600):
        scene = Scene(Random(seed), WORLD.language(language), "condition")
        fact = conditions.probe(scene)
        if "compare" not in fact.case:
            continue
        value, limit = scene.slots[fact.case["compare"]].given, scene.slots["limit"].given
        assert value != limit
        assert fact.holds == ((value > limit) == fact.above)
        assert str(value) in fact.content
        seen.add((fact.holds, fact.above))
    assert len(seen) == 4


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_state_is_one_of_those_of_its_outcome(language: str) -> None:
    for seed in range(300):
        scene = Scene(Random(seed), WORLD.language(language), "condition")
        fact = conditions.probe(scene)
        state = fact.case.get("yes" if fact.holds else "no", {})
        for name, allowed in state.items():
            if isinstance(allowed, list):
                assert scene.slots[name].given in allowed


@pytest.mark.parametrize("language", LANGUAGES)
def test_outcomes_of_a_case_never_share_a_state(language: str) -> None:
    for probe in WORLD.language(language).pages["conditions"]["probe"]:
        for case in probe["case"]:
            if "compare" in case:
                continue
            apart = False
            for name in case["yes"]:
                yes, no = case["yes"][name], case["no"].get(name)
                if isinstance(yes, list) and isinstance(no, list):
                    assert not set(yes) & set(no)
                apart = apart or yes != no
            assert apart


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_done_when_the_condition_does_not_hold(language: str) -> None:
    words = WORLD.language(language)
    undone = tuple(words.pages["conditions"]["undone"])
    done = {True: 0, False: 0}
    for seed in range(300):
        scene = Scene(Random(seed), words, "condition")
        fact = conditions.decide(scene)
        called = sum(len(message.get("tool_calls", ())) for message in scene.messages)
        assert scene.messages[-1]["content"].endswith(undone) == (called == 1)
        assert called > 1 or not fact.holds
        done[called > 1] += 1
    assert min(done.values()) > 80


@pytest.mark.parametrize("language", LANGUAGES)
def test_advice_says_yes_as_often_as_no(language: str) -> None:
    words = WORLD.language(language)
    page = words.pages["conditions"]
    yes, no = (page[key].split("{")[0] for key in ("advice_yes", "advice_no"))
    made = [conditions.advice(Random(seed), words).messages for seed in range(400)]
    # The answer to a question about two things says what each is like.
    answers = [told[-1]["content"] for told in made if len(told[-3].get("tool_calls", ())) == 1]
    assert len(answers) > 200
    assert all(answer.startswith((yes, no)) for answer in answers)
    assert 0.3 < sum(answer.startswith(yes) for answer in answers) / len(answers) < 0.7


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_question_about_two_things_is_two_calls(language: str) -> None:
    words = WORLD.language(language)
    for seed in range(200):
        scene = Scene(Random(seed), words, "advice")
        answer = conditions.both(scene)
        asked, turn, first, second, last = scene.messages[-5:]
        wanted = [call["function"]["arguments"] for call in turn["tool_calls"]]
        assert len(wanted) == 2 and wanted[0] != wanted[1]
        assert first["role"] == second["role"] == "tool"
        assert last["content"] == answer
        for arguments in wanted:
            assert any(str(value) in asked["content"] for value in arguments.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_thing_of_any_name_is_one_against_the_rain(language: str) -> None:
    words = WORLD.language(language)
    page = words.pages["conditions"]
    rain = page["probe"][0]["case"][0]
    seen = set()
    for seed in range(600):
        scene = Scene(Random(seed), words, "advice")
        fact = conditions.advise(scene)
        if "cover" not in scene.slots:
            continue
        seen.add(scene.slots["cover"].said)
        assert fact.case is rain
        assert scene.messages[-1]["content"].startswith(page["advice_yes" if fact.holds else "advice_no"].split("{")[0])
    assert len(seen) > 80
