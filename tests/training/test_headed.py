"""A noun behind a name is no part of the name."""

from random import Random

import pytest
from tests.training.changes import changed
from training import tools
from training.headed import headed, nouns
from training.world import Parameter, ToolWords, World, frames

WORLD = World.load("train")


def _tool(*requests: str, kind: str = "venue") -> ToolWords:
    return ToolWords(
        names=("reserve",),
        descriptions=("Keeps a seat.",),
        requests=frames(list(requests)),
        parameters=(Parameter("x", ("venue",), kind, True, ("Where the seat is",)),),
        key="reserve",
    )


def test_the_noun_stands_behind_the_name_and_in_the_declaration() -> None:
    words, tool = WORLD.language("en"), _tool("Keep a seat at {x}, please", "{x} has to keep one for me", "In my {x}?")
    drawn = [headed(Random(seed), words, tool) for seed in range(60)]
    with_noun = [made for made in drawn if made is not tool]  # none where the noun would be a word of the tool itself
    assert len(with_noun) > 50
    for made in with_noun:
        first, second, third = made.requests[3:6]
        noun = first[2].split(",")[0].strip()
        assert first == ("Keep a seat at the ", "x", f" {noun}, please")
        assert second == ("The ", "x", f" {noun} has to keep one for me")
        assert third == ("In my ", "x", f" {noun}?")
        told = (*made.parameters[0].names, *made.parameters[0].descriptions)
        assert any(noun in text.lower() for text in told)


@pytest.mark.parametrize("request_", ["Keep {x} seats", "Keep a {x} for me", "Is it near {x}'s door?", "“{x}”, please"])
def test_no_noun_where_it_would_read_badly(request_: str) -> None:
    tool = _tool(request_)
    assert headed(Random(1), WORLD.language("en"), tool) is tool


def test_a_noun_stands_behind_names_only() -> None:
    tool = _tool("Keep one at {x}", kind="date")
    assert headed(Random(1), WORLD.language("en"), tool) is tool


@pytest.mark.parametrize("language", WORLD.languages)
def test_the_call_has_the_bare_name(language: str) -> None:
    words, random = WORLD.language(language), Random(5)
    found = changed(words, headed, random)
    for plain, made in found:
        declared = tools.declare(random, words, made)
        new = [request for request in made.requests if request not in plain.requests]
        request = tools.ask(random, words, declared, frame=random.choice(new))
        for slot, value in request.values.items():
            leaf = next(leaf for leaf in made.leaves() if leaf.slot == slot)
            if leaf.kind in words.names and isinstance(value.given, str):
                assert value.given.lower() in request.text.lower()
    assert len(found) > len(words.tools) / 2


def test_nouns_are_what_names_end_in() -> None:
    assert {"bed", "shelf", "room"} <= set(nouns(WORLD.language("en")))
    assert "Street" not in nouns(WORLD.language("en"))
