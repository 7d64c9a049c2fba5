"""The held-out world: what its declarations tell, and that what its tools are asked and answer can be."""

import json
from random import Random

import pytest
from training import chain, field, held_out, tools
from training.world import LANGUAGES, ToolWords, World

from tokenwell.readiness.task import Task

WORLD = World.load("held")
VERBATIM = {"en": "as the user says it", "zh": "照原话"}
DRAWN = [task for seed in range(3) for task in held_out.tasks(seed)]


def told(key: str, language: str = "en") -> ToolWords:
    return next(tool for tool in WORLD.language(language).tools if tool.key == key)


def drawn(category: str) -> list[Task]:
    return [task for task in DRAWN if task.category == category]


@pytest.mark.parametrize("language", LANGUAGES)
def test_days_and_times_are_wanted_as_the_user_says_them(language: str) -> None:
    for tool in WORLD.language(language).tools:
        for leaf in tool.leaves():
            if leaf.kind in ("date", "time", "moment", "booked_day", "past_day", "clear_time"):
                assert leaf.stated and all(VERBATIM[language] in text for text in leaf.descriptions), (tool.key, leaf.slot)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_fact_is_one_of_a_tools_results(language: str) -> None:
    words = WORLD.language(language)
    results = {tool.key: set(tool.results) for tool in words.tools}
    for key, names in words.pages["field"]["facts"].items():
        assert set(names.split("|")) <= results[key]


def test_numbers_are_such_as_people_say() -> None:
    words, upper = WORLD.language("en"), []
    for seed in range(60):
        random = Random(seed)
        request = chain.ask(random, words, tools.declare(random, words, told("blood_pressure_diary")))
        upper.append(request.values["upper"].given)
        assert request.values["lower"].given <= 100
    assert min(upper) >= 105 and max(upper) <= 175


def test_what_everybody_can_work_out_is_right() -> None:
    words = WORLD.language("en")
    for seed in range(40):
        random = Random(seed)
        tool = tools.declare(random, words, told("share_the_bill"))
        request = tools.ask(random, words, tool)
        values = {slot: value.given for slot, value in request.values.items()}
        _, fields = chain._result(random, words, tool, request.values)
        wanted = values["total"] * (100 + values.get("tip", 0)) / 100 / values["people"]
        assert fields["share"].given == pytest.approx(wanted, abs=0.01)


def test_a_reminder_is_set_for_the_time_that_was_asked() -> None:
    for task in (*drawn("reminder"), *drawn("if it rains"), *drawn("rain, note, reminder")):
        for call in (call for turn in task.turns for calls in turn.rounds for call in calls if call.name == "set_reminder"):
            assert json.loads(call.result)["time"] == call.arguments["time"]
            assert call.words["time"][0][0] == call.arguments["time"]


def test_where_it_stays_dry_nobody_is_to_be_reminded_of_an_umbrella() -> None:
    for task in drawn("rain, note, reminder"):
        if not task.end:
            assert "umbrella" not in task.turns[2].user and "伞" not in task.turns[2].user


def test_the_weather_of_two_cities_is_of_one_day() -> None:
    for task in drawn("two cities"):
        assert len({json.loads(call.result)["date"] for call in task.turns[0].rounds[0]}) == 1


def test_a_question_wants_its_fact_an_order_does_not() -> None:
    words = WORLD.language("en")
    for key, fact in (("piste_report", "depth"), ("open_merge_request", None)):
        turn = chain._served(Random(1), words, tools.declare(Random(1), words, told(key)))
        assert bool(turn.says) == (fact is not None)


def test_what_failed_or_cannot_be_done_has_to_be_said() -> None:
    for task in (*drawn("error"), *drawn("unserved"), *drawn("missing")):
        assert task.turns[0].says, task.id
    reason = chain._failed(
        WORLD.language("en"),
        tools.Request("Order more Amlovir", {}, {}),
        tools.declare(Random(1), WORLD.language("en"), told("renew_medicine")),
        "That did not work: somebody else has it.",
    )
    assert {"somebody else has it", "somebody"} < set(reason)


def test_one_of_several_things_is_not_quoted_with_the_others() -> None:
    for seed in range(60):
        turns, _ = chain.side_by_side(Random(seed), WORLD.language("zh"))
        first, second = (next(iter(call.arguments.values())) for call in turns[0].rounds[0])
        assert f"“{first}和{second}”" not in turns[0].user


def test_every_kind_of_field_task_is_drawn() -> None:
    assert {category for category, _, _ in field.MAKERS} <= {task.category for task in DRAWN}
