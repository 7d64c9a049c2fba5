"""Edits of files change what was asked for and copy the rest word for word."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from training import documents, files
from training.dialogue import Dialogue
from training.world import World

WORLD = World.load("train")
LANGUAGES = [language for language in WORLD.languages if "documents" in WORLD.language(language).pages]


def written(dialogue: Dialogue) -> Iterator[tuple[str, str]]:
    """(what was read, what was written) for every whole file that was written after it had been read."""
    read = None
    for message in dialogue.messages:
        for call in message.get("tool_calls", ()):
            texts = [value for value in call["function"]["arguments"].values() if isinstance(value, str)]
            if read is not None and len(texts) == 2:
                longest = max(texts, key=len)
                if "\n" in longest or len(read) < 80:
                    yield read, longest
        if message["role"] == "tool":
            read = message["content"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_written_file_keeps_most_of_what_was_read(language: str) -> None:
    words = WORLD.language(language)
    seen = 0
    for seed in range(400):
        for read, content in written(documents.document(Random(seed), words)):
            before, after = read.split("\n"), content.split("\n")
            if len(before) < 4 or len(after) < 4:
                continue
            kept = [line for line in after if line in before]
            assert len(after) - len(kept) <= 1
            seen += 1
    assert seen > 50


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_document_prints_its_parts(language: str) -> None:
    words = WORLD.language(language)
    for seed in range(100):
        document = files.made(Random(seed), words, 12)
        text = document.text()
        assert text == text.strip()
        for section in document.sections:
            if section.heading:
                assert document.mark + section.heading in text.split("\n")
            assert "\n".join(section.lines) in text


def test_a_section_is_replaced_and_nothing_else() -> None:
    document = files.Document(
        "# Plan", (files.Section("Food", ("- tea", "- rice"), "- "), files.Section("Work", ("start: 9",), "k")), "## "
    )
    assert document.text() == "# Plan\n\n## Food\n- tea\n- rice\n\n## Work\nstart: 9"
    assert document.put(0, ("only soup",)).text() == "# Plan\n\n## Food\nonly soup\n\n## Work\nstart: 9"


@pytest.mark.parametrize("name", list(documents.EDITS))
def test_every_edit_can_be_made_with_each_of_its_kits(name: str) -> None:
    words = WORLD.language("en")
    for kit in documents.EDITS[name][1]:
        answers: list[Any] = []
        for seed in range(40):
            dialogue = documents.edited(Random(seed), words, name, kit)
            if dialogue is not None:
                answers.append(dialogue)
        assert answers


def test_a_file_that_is_not_there_is_reported_or_created() -> None:
    words = WORLD.language("en")
    absent = 0
    for seed in range(400):
        messages = documents.document(Random(seed), words).messages
        if messages[-1]["content"].startswith("There is no "):
            absent += 1
            assert sum(len(message.get("tool_calls", ())) for message in messages) == 1
    assert absent


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_without_quotes_ends_the_request(language: str) -> None:
    words = WORLD.language(language)
    plain = [frame for frame in words.pages["documents"]["requests"]["append"] if frame.endswith("{text}")]
    starts = tuple(frame.split("{file}")[0] for frame in plain if not frame.startswith("{file}"))
    seen = 0
    for seed in range(600):
        dialogue = documents.edited(Random(seed), words, "append", ("append",))
        assert dialogue is not None
        asked = next(message["content"] for message in dialogue.messages if message["role"] == "user")
        given = dialogue.messages[-3]["tool_calls"][0]["function"]["arguments"].values()
        if asked.startswith(starts) and any(asked.endswith(str(value)) for value in given):
            seen += 1
        assert any(str(value) in asked for value in given)
    assert seen > 20
