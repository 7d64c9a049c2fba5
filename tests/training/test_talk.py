"""Talk is answered without a call; what the tools do is told from their declarations."""

from random import Random

import pytest
from training import talk, tools
from training.scene import Scene, subjects
from training.world import World

WORLD = World.load("train")
LANGUAGES = [language for language in WORLD.languages if "talk" in WORLD.language(language).pages]


@pytest.mark.parametrize(
    ("language", "group"),
    [(language, group) for language in LANGUAGES for group in talk.GROUPS if group in WORLD.language(language).pages["talk"]],
)
def test_a_group_is_answered_by_its_answer(language: str, group: str) -> None:
    words = WORLD.language(language)
    assert len(words.pages["talk"][group]["prompts"]) >= 30
    for seed in range(40):
        scene = Scene(Random(seed), words, "talk")
        scene.declare(words.tools[seed % len(words.tools)])
        declared = scene.beside(most=3)
        talk.chat(scene, group, declared)
        assert scene.messages[-1]["role"] == "assistant"
        assert "{" not in scene.messages[-1]["content"]


def test_a_tool_is_told_from_its_declaration() -> None:
    words = WORLD.language("en")
    for seed in range(60):
        scene = Scene(Random(seed), words, "talk")
        scene.declare(words.tools[seed % len(words.tools)])
        declared = scene.beside()
        talk.chat(scene, "about_tool", declared)
        told = {f"{tool['function']['name']}: {tool['function'].get('description')}" for tool in declared}
        answer = scene.messages[-1]["content"]
        assert answer in told or answer in words.pages["talk"]["greeting"]["answers"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_no_tool_serves_is_not_called(language: str) -> None:
    words = WORLD.language(language)
    answers = [*words.pages["talk"]["unserved"]["answers"], *words.pages["talk"]["unserved"]["with_none"]]
    for seed in range(150):
        dialogue = talk.unserved(Random(seed), words)
        said = [message["content"] for message in dialogue.messages if message["content"] in answers]
        assert said
        assert (said[0] in words.pages["talk"]["unserved"]["with_none"]) == (not dialogue.tools)


def test_names_are_joined_as_people_do() -> None:
    assert talk.join_plainly("en", ["a"]) == "a"
    assert talk.join_plainly("en", ["a", "b", "c"]) == "a, b and c"
    assert talk.join_plainly("zh", ["甲", "乙", "丙"]) == "甲、乙和丙"


@pytest.mark.parametrize("language", LANGUAGES)
def test_tools_that_have_nothing_to_do_with_a_request_share_no_word_with_its_tool(language: str) -> None:
    words = WORLD.language(language)
    for seed in range(60):
        scene = Scene(Random(seed), words, "unserved")
        wanted = tools.declare(Random(seed), words, words.tools[seed])
        declared, _ = talk._unrelated(scene, wanted)
        assert wanted.name not in {tool["function"]["name"] for tool in declared}
        if all(tool.words.recipe is None and tool.words.disguised is None for tool in scene.tools):
            assert all(not subjects(tool.words) & subjects(wanted.words) for tool in scene.tools)
        assert 1 <= len(declared) <= 12
