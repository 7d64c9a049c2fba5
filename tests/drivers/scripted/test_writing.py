"""Answers in every chat format: what is written is read back by the format's own parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenwell.bundled.checkpoint import scripted_folder
from tokenwell.chat.conversation import Conversation, Message
from tokenwell.chat.events import Content, Reasoning, ToolArguments, ToolEnd, ToolStart
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.model import ChatModel
from tokenwell.drivers.scripted.script import Step
from tokenwell.drivers.scripted.writing import Writer

ARGUMENTS: dict[str, Any] = {
    "path": "a b.txt",
    "text": 'é "q"\n</tool_call> {x} ]]',
    "list": [1, {"deep": None}],
    "yes": True,
    "n": -1.5,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "write",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "text": {"type": "string"},
                "list": {"type": "array"},
                "yes": {"type": "boolean"},
                "n": {"type": "number"},
            },
        },
    },
}
WITH_CALLS = [name for name, format in FORMATS.items() if format.calls]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_folder(tmp_path_factory.mktemp("cache"))


def _read(folder: Path, name: str, *steps: Step) -> tuple[str, str, list[tuple[str, Any]]]:
    """Reasoning, content and complete calls of an answer that consists of these steps."""
    model = ChatModel.load(folder, chat_format=name)
    prompt = model.render(Conversation((Message(role="user", content="x"),), (TOOL,)))
    tokenizer = ChatModel.load(folder, chat_format=name).tokenizer
    tokenizer.encoder.encode_special_tokens = True
    stream = model.stream(prompt, "id")
    ids = Writer(model.format, tokenizer, tokenizer.added["<|im_end|>"]).answer(steps)
    if ids and ids[-1] in model.defaults.stop_ids:  # the service leaves it out too
        ids.pop()
    events = [event for id in ids for event in stream.feed([id])] + stream.finish()
    names = {event.index: event.name for event in events if isinstance(event, ToolStart)}
    texts = {
        index: "".join(event.text for event in events if isinstance(event, ToolArguments) and event.index == index)
        for index in names
    }
    return (
        "".join(event.text for event in events if isinstance(event, Reasoning)),
        "".join(event.text for event in events if isinstance(event, Content)),
        [(names[event.index], json.loads(texts[event.index])) for event in events if isinstance(event, ToolEnd)],
    )


@pytest.mark.parametrize("name", WITH_CALLS)
def test_a_call_is_read_back(folder: Path, name: str) -> None:
    assert _read(folder, name, Step("call", "write", ARGUMENTS)) == ("", "", [("write", ARGUMENTS)])


@pytest.mark.parametrize("name", [name for name in WITH_CALLS if FORMATS[name].calls[0].single is False])
def test_calls_are_read_back_together(folder: Path, name: str) -> None:
    calls = [Step("call", "write", {"path": "a"}), Step("call", "write", {})]
    assert _read(folder, name, *calls)[2] == [("write", {"path": "a"}), ("write", {})]


@pytest.mark.parametrize("name", list(FORMATS))
def test_words_and_thoughts_are_read_back(folder: Path, name: str) -> None:
    reasoning, content, calls = _read(folder, name, Step("think", "hm, <think>"), Step("say", "so <|im_end|>"))
    format = FORMATS[name]
    thinks = format.thinking is not None or format.channels is not None
    assert (reasoning, content, calls) == ("hm, <think>" if thinks else "", "so <|im_end|>", [])


@pytest.mark.parametrize("name", [name for name in WITH_CALLS if not FORMATS[name].calls[0].whole])
def test_words_before_a_call_are_content(folder: Path, name: str) -> None:
    _, content, calls = _read(folder, name, Step("say", "look:"), Step("call", "write", {"path": "a"}))
    assert (content.strip(), calls) == ("look:", [("write", {"path": "a"})])


def test_a_format_without_calls_says_so(folder: Path) -> None:
    assert "write is not called" in _read(folder, "plain", Step("call", "write", {}))[1]
