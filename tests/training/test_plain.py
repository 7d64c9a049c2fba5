"""Requests that share a word with the declaration."""

from random import Random

import pytest
from training import tools
from training.plain import plain
from training.world import Frame, Parameter, ToolWords, World, frame, frames

WORLD = World.load("train")


def _plain(language: str, tool: ToolWords) -> list[Frame]:
    declared = tools.declare(Random(1), WORLD.language(language), tool)
    return plain(language, declared.declaration, tool.requests)


def test_english_words_are_compared_without_their_plural() -> None:
    asked = ["Tides at {place}", "Is the water high at {place}?", "What does the sea do at {place}?"]
    places = (Parameter("place", ("harbour",), "city", True, ("Where",), stated=True),)
    assert _plain("en", ToolWords(("tide_clock",), ("High water.",), frames(asked), places)) == [frame(one) for one in asked[:2]]


def test_in_chinese_two_characters_are_compared() -> None:
    asked = ["{place}几点涨潮", "{place}的海什么时候涨", "帮我看看{place}"]
    places = (Parameter("place", ("harbour",), "city", True, ("哪里",), stated=True),)
    assert _plain("zh", ToolWords(("chaoxi",), ("查涨潮时间",), frames(asked), places)) == [frame(asked[0])]


@pytest.mark.parametrize("language", WORLD.languages)
def test_some_requests_share_nothing_and_are_asked_too(language: str) -> None:
    words, random = WORLD.language(language), Random(4)
    shared = [len(_plain(language, tool)) / len(tool.requests) for tool in random.sample(words.tools, 200)]
    assert 0.3 < sum(shared) / len(shared) < 0.9
