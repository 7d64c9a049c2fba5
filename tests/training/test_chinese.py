"""The Chinese words of the training world, and the dialogues that are made of them."""

import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from training.clock import number_word
from training.dialogue import Dialogue
from training.fillers import filled
from training.generate import KINDS
from training.kinds import Value
from training.leaves import leaves
from training.spacing import spaced
from training.world import WORDS, World, faults

WORLD = World.load("train", ("en", "zh"))
ENGLISH, CHINESE = WORLD.language("en"), WORLD.language("zh")
FILES = sorted((WORDS / "train" / "zh").glob("*.toml"))
HELD_TOOLS = ("read_file", "write_file", "append_file", "get_weather", "set_reminder", "list_files", "edit_file")
HELD_OUT = (*HELD_TOOLS, "MEMORY.md", "USER.md", "上海", "伞")
BIG_KINDS = (
    "city person team venue hotel product project company book song film room device dish item medicine place museum "
    "course event topic label"
)
MADE = 500


def _told(value: Any, heard: str) -> bool:
    """Whether a value stands in what was said and returned so far; of a text that was put together: its names and numbers."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int | float):
        return str(value) in heard or (1 <= value <= 12 and number_word("zh", int(value)) in heard)
    subject, colon, fact = value.lower().partition("：")
    if colon and subject in heard:
        return all(number in heard for number in re.findall(r"\d+", fact))
    pieces = re.split(r"[\s：:，。()（）=]+", value.lower())
    return value.lower() in heard or all(piece in heard for piece in pieces if not re.fullmatch(r"\d+\.|\[|x]|\[x]", piece))


def _dialogues(count: int) -> Iterator[Dialogue]:
    kinds = list(KINDS)
    for seed in range(count):
        kind = kinds[seed % len(kinds)]
        yield KINDS[kind][1](Random(seed), CHINESE)


def test_tools_and_their_requests_fit_together() -> None:
    assert faults(CHINESE) == []
    assert len(CHINESE.tools) >= 120
    assert all(len(tool.requests) >= 6 and len(set(tool.requests)) == len(tool.requests) for tool in CHINESE.tools)
    assert len({tool.key for tool in CHINESE.tools}) == len(CHINESE.tools)


@pytest.mark.parametrize("kind", BIG_KINDS.split())
def test_a_kind_has_many_entities(kind: str) -> None:
    assert len(set(CHINESE.names[kind])) >= 60


def test_every_english_page_has_a_chinese_one_with_the_same_keys() -> None:
    assert set(ENGLISH.pages) <= set(CHINESE.pages)
    for page, told in ENGLISH.pages.items():
        assert _missing(told, CHINESE.pages[page]) == [], page
    assert _missing(ENGLISH.frames, CHINESE.frames) == []


def _missing(english: Any, chinese: Any) -> list[str]:
    """The keys that only the English table has, inside tables of tables too; words that only one language needs may differ."""
    found = []
    for key, value in english.items():
        if key in ("words", "keys", "things", "fields", "bare", "markers", "synonyms"):
            continue
        if key not in chinese:
            found.append(key)
        elif isinstance(value, dict):
            found += [f"{key}.{inner}" for inner in _missing(value, chinese[key])]
    return found


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_what_is_held_out_is_not_there(path: Any) -> None:
    text = path.read_text("utf-8")
    assert [word for word in HELD_OUT if word in text] == []
    assert len(text.splitlines()) <= 400


def test_arguments_come_from_the_conversation() -> None:
    for made in _dialogues(MADE):
        declared = {tool["function"]["name"]: tool["function"] for tool in made.tools}
        heard = ""
        for message in made.messages:
            for call in message.get("tool_calls", ()):
                function = declared[call["function"]["name"]]
                arguments = call["function"]["arguments"]
                schema = function["parameters"]
                assert set(schema.get("required", ())) <= set(arguments) <= set(schema["properties"])
                known = heard + json.dumps(function, ensure_ascii=False).lower()
                strange = [value for value in leaves(arguments) if not _told(value, known)]
                assert strange == [], (made.kind, strange, heard[-400:])
            heard += "\n" + str(message["content"]).lower()
        assert made.messages[-1]["role"] == "assistant"


def test_sentences_are_whole() -> None:
    for made in _dialogues(MADE):
        for message in made.messages:
            text = message["content"]
            if message["role"] in ("user", "assistant"):
                assert not re.search(r"\{\w*\}", text), text
                assert not re.search(r"，，|。。|，。|？。|：，|、、|^，", text), text


def test_blanks_stand_between_chinese_and_latin_but_not_inside_a_value() -> None:
    changed = 0
    for made in _dialogues(200):
        after = spaced(made)
        changed += after != made
        for old, new in zip(made.messages, after.messages, strict=True):
            assert old["content"].replace(" ", "") == new["content"].replace(" ", "")
            assert old == new or old["role"] == "user"
            for value in leaves([call["function"]["arguments"] for call in old.get("tool_calls", ())]):
                if isinstance(value, str):
                    assert sum(value in message["content"] for message in made.messages) == sum(
                        value in message["content"] for message in after.messages
                    )
    assert changed > 100


def test_small_words_stand_beside_values_and_change_none() -> None:
    city = Value("昆明", "昆明", "city")
    lamp = Value("客厅灯", "客厅灯", "device")
    found = {
        "".join(
            piece if isinstance(piece, str) else piece.said
            for piece in filled(Random(seed), CHINESE, ["打开", lamp, "看", city, "的灯"])
        )
        for seed in range(300)
    }
    assert "打开客厅灯看昆明的灯" in found
    assert len(found) > 10
    assert all("客厅灯" in text and text.endswith("昆明的灯") for text in found)


def test_no_small_word_stands_between_a_name_and_what_it_names() -> None:
    """Else nobody could tell from the sentence whether the noun is a part of the name."""
    name = Value("晨光", "晨光", "app")
    noun, verb = (
        {str(filled(Random(seed), CHINESE, ["把", name, rest])[2]) for seed in range(200)} for rest in ("窗口关掉", "挪走")
    )
    assert noun == {"窗口关掉"}
    assert len(verb) > 3
