"""Dialogues of several turns keep the conventions: what is called is declared, and what is given was said or returned."""

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from training import checks, conditions, documents, failures, linked, lookups, missing, sequences, talk, workflows
from training.dialogue import Dialogue
from training.leaves import strings
from training.world import World

WORLD = World.load("train")
MAKERS = {
    name: maker
    for module in (checks, conditions, documents, failures, linked, lookups, missing, sequences, talk, workflows)
    for name, (_, maker) in module.KINDS.items()
}
CASES = [(name, language) for name in MAKERS for language in WORLD.languages]
HELD_OUT = ("read_file", "write_file", "append_file", "get_weather", "set_reminder", "list_files", "edit_file", "MEMORY.md",
            "USER.md", "Shanghai", "umbrella", "上海", "雨伞")  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


def made(name: str, language: str, count: int) -> Iterator[Dialogue]:
    words = WORLD.language(language)
    for seed in range(count):
        yield MAKERS[name](Random(seed), words)


def calls_of(dialogue: Dialogue) -> Iterator[tuple[str, dict[str, Any]]]:
    for message in dialogue.messages:
        for call in message.get("tool_calls", ()):
            yield call["function"]["name"], call["function"]["arguments"]


@pytest.mark.parametrize(("name", "language"), CASES)
def test_calls_fit_the_declarations(name: str, language: str) -> None:
    for dialogue in made(name, language, 50):
        declared = {tool["function"]["name"]: tool["function"]["parameters"] for tool in dialogue.tools}
        assert len(declared) == len(dialogue.tools) <= 12
        for called, arguments in calls_of(dialogue):
            schema = declared[called]
            assert set(schema.get("required", ())) <= set(arguments) <= set(schema["properties"])
            for key, value in arguments.items():
                kind = schema["properties"][key]
                assert isinstance(value, TYPES[kind["type"]])
                assert value in kind.get("enum", [value])


@pytest.mark.parametrize(("name", "language"), CASES)
def test_turns_follow_one_another(name: str, language: str) -> None:
    for dialogue in made(name, language, 50):
        waiting: list[str] = []
        seen: set[str] = set()
        before = "user"
        for message in dialogue.messages:
            role = message["role"]
            if role == "assistant":
                assert not waiting
                ids = [call["id"] for call in message.get("tool_calls", ())]
                assert bool(ids) != bool(message["content"])
                assert not seen & set(ids)
                seen |= set(ids)
                waiting = list(ids)
            elif role == "tool":
                assert message["tool_call_id"] == waiting.pop(0)
            elif role == "user":
                assert before in ("user", "system", "assistant")
                assert not waiting
                assert message["content"].strip()
            before = role
        assert dialogue.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(("name", "language"), CASES)
def test_no_slot_stays_open(name: str, language: str) -> None:
    slot = re.compile(r"\{[A-Za-z_]+\}")
    for dialogue in made(name, language, 50):
        for message in dialogue.messages:
            if message["role"] == "user":
                assert not slot.search(message["content"]), message["content"]
            if message["role"] == "assistant":
                assert not slot.search(message["content"]), message["content"]


@pytest.mark.parametrize(("name", "language"), [case for case in CASES if case[0] != "document"])
def test_what_is_given_was_said_or_returned(name: str, language: str) -> None:
    for dialogue in made(name, language, 50):
        said = ""
        for message in dialogue.messages:
            said += (message["content"] + "\n").lower()
            for call in message.get("tool_calls", ()):
                for text in strings(call["function"]["arguments"]):
                    assert _known(text, said, dialogue), (text, dialogue.messages)


def _known(text: str, said: str, dialogue: Dialogue) -> bool:
    """Whether a value was said word for word, is an enum's value, or is a note made of a subject and a fact that were told."""
    facts = [case["fact"] for probe in WORLD.language(dialogue.language).pages["conditions"]["probe"] for case in probe["case"]]
    flat = said.replace('\\"', '"') + " ".join(facts)
    if text.lower() in flat:
        return True
    enums = {value for tool in dialogue.tools for value in _enums(tool["function"]["parameters"])}
    if text in enums:
        return True
    subject, colon, fact = re.split(r"(: |：)", text.lower(), maxsplit=1) if re.search(": |：", text) else (text, "", "")
    pieces = re.findall(r"[a-z]+|[0-9.-]+|[\u4e00-\u9fff]+", fact)
    return bool(colon) and subject in flat and sum(piece in flat for piece in pieces) * 2 >= len(pieces)


def _enums(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "enum":
                yield from value
            else:
                yield from _enums(value)


@pytest.mark.parametrize(("name", "language"), CASES)
def test_nothing_held_out_is_used(name: str, language: str) -> None:
    for dialogue in made(name, language, 40):
        text = json.dumps([dialogue.messages, dialogue.tools], ensure_ascii=False)
        assert not [word for word in HELD_OUT if word in text]


@pytest.mark.parametrize("name", [name for name, language in CASES if language == "en"])
def test_a_seed_gives_one_dialogue(name: str) -> None:
    words = WORLD.language("en")
    assert MAKERS[name](Random(5), words) == MAKERS[name](Random(5), words)


def test_english_requests_are_cut_before_a_value() -> None:
    words = WORLD.language("en")
    cut = [text for tool in words.tools for text, _ in missing.cuts("en", tool) if text not in tool.incomplete]
    assert len(cut) > len(words.tools)


def test_a_missing_value_is_asked_for_before_the_call() -> None:
    asked = WORLD.language("en").pages["missing"]["asks"][0].split("{")[0]
    questions = 0
    for dialogue in made("missing", "en", 100):
        for before, message in zip(dialogue.messages, dialogue.messages[1:], strict=False):
            if message["role"] == "assistant" and message["content"].startswith(asked):
                assert before["role"] == "user"
                questions += 1
    assert questions > 80


@pytest.mark.parametrize("name", ["sequence", "sequence_linked", "sequence_invented", "chain"])
def test_sequences_call_one_tool_a_turn(name: str) -> None:
    pages = WORLD.language("en").pages
    stops = (pages["sequences"]["nothing"]["answer"], pages["failures"]["failed"].split("{")[0])
    for dialogue in made(name, "en", 100):
        turns = [message for message in dialogue.messages if message.get("tool_calls")]
        assert len(turns) >= 2 or dialogue.messages[-1]["content"].startswith(stops)
        assert all(len(message["tool_calls"]) == 1 for message in turns)


def test_a_failed_call_is_repeated_or_reported() -> None:
    page = WORLD.language("en").pages["failures"]
    for dialogue in made("failure", "en", 200):
        results = [message["content"] for message in dialogue.messages if message["role"] == "tool"]
        place = next(number for number, message in enumerate(dialogue.messages) if message["role"] == "tool")
        after = dialogue.messages[place + 1]
        if any(error in results[0] for error in page["busy"]):
            assert after["tool_calls"][0]["function"] == dialogue.messages[place - 1]["tool_calls"][0]["function"]
        elif "tool_calls" not in after:
            assert any(error in after["content"] for error in page["hard"])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_value_that_is_only_spoken_of_is_missing(language: str) -> None:
    words = WORLD.language(language)
    spoken = {text for texts in words.pages["missing"]["vague"].values() for text in texts}
    found = 0
    for tool in words.tools:
        required = {leaf.slot for leaf in tool.leaves() if leaf.required}
        for frame, slot in missing.vague(Random(1), words, tool):
            assert slot in required
            assert slot not in frame[1::2]
            assert any(text in literal for literal in frame[::2] for text in spoken)
            found += 1
    assert found > 200


@pytest.mark.parametrize("language", ["en", "zh"])
def test_several_results_go_into_one_call_under_their_own_kinds(language: str) -> None:
    words = WORLD.language(language)
    pairs = linked._link_pairs(words)
    assert len(pairs[True]) > 20
    for first, second, links in pairs[True]:
        kinds = {leaf.slot: leaf.kind for leaf in second.leaves()}
        assert len(set(links.values())) == len(links) > 1
        assert all(first.results[field] == kinds[slot] for slot, field in links.items())
