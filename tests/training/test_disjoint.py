"""What the model is judged by shares no tool name, no entity and no sentence with what it learned."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from training import generate, held_out
from training.dialogue import Dialogue
from training.leaves import strings
from training.world import WORDS, World

from tokenwell.readiness.task import tasks

DIALOGUES = 2000  # of each world
_SLOT = re.compile(r"\{[\w:]*\}")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.\-]+")
_WORD = re.compile(r"[a-z0-9']+|[\u4e00-\u9fff]")


@cache
def pages(world: str) -> tuple[tuple[str, Any], ...]:
    """Every file of a world: its name and content."""
    return tuple((path.stem, tomllib.loads(path.read_text("utf-8"))) for path in sorted((WORDS / world).glob("*/*.toml")))


def tool_tables(value: Any) -> Iterator[dict[str, Any]]:
    """Every table that declares a tool, on whichever page."""
    if isinstance(value, dict):
        if "names" in value and "descriptions" in value and "kind" not in value and "yes" not in value:
            yield value
        for each in value.values():
            yield from tool_tables(each)
    elif isinstance(value, list):
        for each in value:
            yield from tool_tables(each)


def plain_name(name: str) -> str:
    """A tool's name in whatever style it is spelled."""
    return re.sub(r"[^a-z0-9\u4e00-\u9fff]", "", name.lower())


def plain_sentence(text: str) -> str | None:
    """A sentence without slots, case and punctuation; None for an identifier and for what is too short to be a sentence."""
    if _IDENTIFIER.fullmatch(text):
        return None
    words = _WORD.findall(_SLOT.sub(" ", text).lower())
    return " ".join(words) if len(words) >= (5 if any(word >= "\u4e00" for word in words) else 3) else None


def tool_names(world: str) -> set[str]:
    return {plain_name(name) for _, page in pages(world) for table in tool_tables(page) for name in table["names"]}


def entities(world: str) -> set[str]:
    return {text.casefold() for stem, page in pages(world) if stem.startswith("names") for text in strings(page)}


def sentences(world: str) -> set[str]:
    found = {plain_sentence(text) for stem, page in pages(world) if not stem.startswith("names") for text in strings(page)}
    return {text for text in found if text}


@cache
def dialogues(world: str) -> tuple[Dialogue, ...]:
    if world == "train":
        words = World.load("train")
        return tuple(generate.dialogue(seed, words) for seed in range(DIALOGUES))
    drawn = [task for seed in range(DIALOGUES // 500 - 1) for task in held_out.tasks(seed)]
    return tuple(held_out.gold(task) for task in (*tasks(), *drawn))


def values(world: str) -> set[str]:
    """Every text that a call of a generated dialogue has for an argument; not what its declaration offers to choose from."""
    return {
        text.casefold()
        for dialogue in dialogues(world)
        for message in dialogue.messages
        for call in message.get("tool_calls", ())
        for text in set(strings(call["function"]["arguments"])) - set(offered(dialogue, call["function"]["name"]))
    }


def offered(dialogue: Dialogue, name: str) -> Iterator[str]:
    """The values of a declared tool's enums."""
    for tool in dialogue.tools:
        if tool["function"]["name"] == name:
            properties = tool["function"]["parameters"]["properties"].values()
            yield from strings([each.get("enum", []) for each in properties])


@pytest.mark.parametrize("share", [tool_names, entities, sentences])
def test_the_worlds_words_share_nothing(share: Any) -> None:
    train, held = share("train"), share("held")
    assert min(len(train), len(held)) > 100
    assert sorted(train & held) == []


def test_generated_dialogues_declare_no_tool_of_the_other_world() -> None:
    declared = {
        world: {plain_name(tool["function"]["name"]) for dialogue in dialogues(world) for tool in dialogue.tools}
        for world in ("train", "held")
    }
    assert sorted(declared["train"] & declared["held"]) == []


def test_generated_dialogues_say_no_sentence_of_the_other_world() -> None:
    said = {
        world: {
            plain_sentence(message["content"])
            for dialogue in dialogues(world)
            for message in dialogue.messages
            if message["role"] == "user"
        }
        - {None}
        for world in ("train", "held")
    }
    assert said["train"] & said["held"] == set()


def test_generated_calls_name_no_entity_of_the_other_world() -> None:
    assert sorted(values("train") & entities("held")) == []
    assert sorted(values("held") & entities("train")) == []
