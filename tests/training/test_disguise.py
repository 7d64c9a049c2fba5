"""Natural tools whose words are replaced."""

import re
from random import Random

import pytest
from tests.training.changes import changed
from training.disguise import disguise
from training.spelling import name_words
from training.world import Parameter, ToolWords, World, frames

WORLD = World.load("train")
TABLE = ToolWords(
    names=("book_table",),
    descriptions=("Books a table at a restaurant.", "Somewhere to eat."),
    requests=frames(["Book a table at {venue}", "We are hungry and go to {venue}"]),
    answers=frames(["The table at {venue} is yours."]),
    parameters=(Parameter("venue", ("venue",), "venue", True, ("Where the table is",)),),
    key="book_table",
)


def test_a_word_is_replaced_everywhere() -> None:
    words = WORLD.language("en")
    for seed in range(80):
        made = disguise(Random(seed), words, TABLE)
        assert len(made.requests) == 1 and len(made.descriptions) == 1 and len(made.names) == 1  # those that have a replaced word
        verb, _, noun = made.requests[0][0].removesuffix(" at ").split(" ")
        assert (verb, noun) != ("Book", "table")
        told = f"{made.descriptions[0]} {' '.join(name_words(made.names[0]))}".lower()
        assert noun in told or verb.lower() in told
        assert noun in made.answers[0][0] and noun in made.parameters[0].descriptions[0]
        assert made.disguised is TABLE and made.key == TABLE.key


def _split(language: str, text: str) -> set[str]:
    """The words of a text, or its pairs of characters."""
    if language == "zh":
        return {text[place : place + 2] for place in range(len(text) - 1)}
    return {word.removesuffix("s") for word in re.findall(r"[a-z]+", text.lower())}


def _terms(language: str, tool: ToolWords) -> set[str]:
    names = (part for name in tool.names for part in name_words(name))
    return {term for text in (*tool.descriptions, *names) for term in _split(language, text)}


@pytest.mark.parametrize("language", WORLD.languages)
def test_every_request_shares_a_word_with_the_declaration(language: str) -> None:
    words, random = WORLD.language(language), Random(3)
    found = changed(words, disguise, random)
    for tool, made in found:
        new = _terms(language, made) - _terms(language, tool)
        for request in made.requests:
            said = _split(language, "".join(request[::2]))
            assert any(word.startswith(term) for term in new for word in (*said, *(f"{word}s" for word in said))), request
    assert len(found) > len(words.tools) / 2


def test_a_tool_whose_requests_say_nothing_of_it_stays() -> None:
    tool = ToolWords(names=("zap",), descriptions=("Zaps.",), requests=frames(["Go on"]), key="zap")
    assert disguise(Random(1), WORLD.language("en"), tool) is tool
