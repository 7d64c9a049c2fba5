"""The golden transcripts of tests/golden and the ways of replaying one: as text cut anywhere, and as tokens.

An output is a list of pieces: a string is text that the model wrote, {"token": "<mark>"} a token of the chat format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from tests.tiny.tokenizer import tokenizer_json
from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder

from tokenwell.chat.conversation import Conversation, Prompt
from tokenwell.chat.defaults import Defaults
from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.model import ChatModel
from tokenwell.chat.parser import Parser
from tokenwell.chat.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent.parent / "golden"

# "special": the marks are special tokens; "visible": they are added tokens that are text to the tokenizer, as Qwen has them.
Marks = Literal["special", "visible"]
# Formats of which there are checkpoints whose marks are no special tokens.
ALSO_VISIBLE = ("qwen_xml", "hermes", "deepseek", "mistral")


def _tool(name: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": f"{name} for tests", "parameters": parameters}}


STANDARD_TOOLS = (
    _tool(
        "get_weather",
        {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        ["city"],
    ),
    _tool("write_file", {"path": {"type": "string"}, "content": {"type": "string"}}, ["path", "content"]),
    _tool("search.web-find", {"query": {"type": "string"}, "filters": {"type": "object"}}, ["query"]),
    _tool(
        "configure",
        {
            "enabled": {"type": "boolean"},
            "ratio": {"type": "number"},
            "count": {"type": "integer"},
            "note": {"type": ["string", "null"]},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "extra": {},
        },
        [],
    ),
    _tool("ping", {}, []),
)


@dataclass(frozen=True)
class Golden:
    """One transcript of a format and what it must become."""

    format: str
    name: str
    output: tuple[str | dict[str, str], ...]
    tools: tuple[dict[str, Any], ...]
    reasoning: bool
    cut: bool
    only: Marks | None  # the expectation holds only where the marks are tokens of this kind
    expect: dict[str, Any]


@cache
def goldens(format: str) -> tuple[Golden, ...]:
    """All transcripts of a format."""
    lines = (GOLDEN / f"{format}.jsonl").read_text(encoding="utf-8").split("\n")
    return tuple(_golden(format, json.loads(line)) for line in lines if line)


def _golden(format: str, line: dict[str, Any]) -> Golden:
    return Golden(
        format=format,
        name=line["name"],
        output=tuple(line["output"]),
        tools=tuple(line.get("tools", STANDARD_TOOLS)),
        reasoning=line.get("reasoning", False),
        cut=line.get("cut", False),
        only=line.get("only"),
        expect=line["expect"],
    )


@dataclass(frozen=True)
class Replayer:
    """A checkpoint that has nothing but a tokenizer and a chat format."""

    model: ChatModel
    plain: Encoder  # the same vocabulary without the marks: it never makes a mark of text

    def text(self, output: Iterable[str | dict[str, str]]) -> str:
        """The output as the parser is fed it."""
        bound = self.model.format
        return "".join(piece if isinstance(piece, str) else bound.marks.get(piece["token"], piece["token"]) for piece in output)

    def ids(self, output: Iterable[str | dict[str, str]]) -> list[int]:
        """The output as an engine generates it."""
        ids: list[int] = []
        for piece in output:
            if isinstance(piece, str):
                ids += self.plain.encode(piece, add_special_tokens=False).ids
            else:
                id = self.model.tokenizer.id_of(piece["token"])
                assert id is not None, f"{piece['token']} is no token of this format"
                ids.append(id)
        return ids

    def read(self, golden: Golden, pieces: Iterable[str]) -> tuple[list[Event], bool]:
        """Events of text fed in these pieces, joined, and whether the answer is one of calls."""
        parser = Parser(self.model.format, golden.tools, golden.reasoning, "golden")
        events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish(golden.cut)
        return joined(events), parser.called

    def read_ids(self, golden: Golden, groups: Iterable[list[int]]) -> tuple[list[Event], bool]:
        """The same for token ids, through the detokeniser."""
        stream = self.model.stream(Prompt(Conversation(()), "", [], tools=golden.tools, reasoning=golden.reasoning), "golden")
        events = [event for group in groups for event in stream.feed(group)] + stream.finish(golden.cut)
        return joined(events), stream.called


@cache
def replayer(format: str, marks: Marks) -> Replayer:
    """A small byte-level tokenizer that has the format's marks as tokens of this kind."""
    plain = Encoder.from_str(tokenizer_json("llama3"))
    encoder = Encoder.from_str(tokenizer_json("llama3"))
    for mark in FORMATS[format].marks:
        encoder.add_tokens([AddedToken(mark, special=marks == "special", normalized=False)])
    return Replayer(ChatModel(Tokenizer(encoder, {}), None, Defaults(), format), plain)


def joined(events: Iterable[Event]) -> list[Event]:
    """Events with neighbours of one kind (and of one call) made one: what remains when it does not matter how text was cut."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        match last, event:
            case (Content(before), Content(text)):
                result[-1] = Content(before + text)
            case (Reasoning(before), Reasoning(text)):
                result[-1] = Reasoning(before + text)
            case (ToolArguments(index, before), ToolArguments(same, text)) if index == same:
                result[-1] = ToolArguments(index, before + text)
            case _:
                result.append(event)
    return result


@dataclass
class Called:
    """A call put together from its events."""

    id: str
    name: str
    arguments: str = ""
    complete: bool = False


@dataclass(frozen=True)
class Answer:
    """Events put together."""

    reasoning: str
    content: str
    calls: list[Called]
    order: list[str]


def answer(events: Iterable[Event]) -> Answer:
    """Put events together; a call's events must stand together and in order."""
    reasoning, content, order = "", "", list[str]()
    calls: list[Called] = []
    for event in events:
        match event:
            case Reasoning(text):
                reasoning += text
                order.append("reasoning")
            case Content(text):
                content += text
                order.append("content")
            case ToolStart(index, id, name):
                assert index == len(calls), "calls are counted up from 0"
                calls.append(Called(id, name))
                order.append("call")
            case ToolArguments(index, text):
                assert index == len(calls) - 1 and not calls[index].complete, "arguments belong to the call that is open"
                assert order[-1] == "call", "nothing comes between the events of a call"
                calls[index].arguments += text
            case ToolEnd(index):
                assert index == len(calls) - 1 and not calls[index].complete, "a call ends once"
                assert order[-1] == "call", "nothing comes between the events of a call"
                calls[index].complete = True
    return Answer(reasoning, content, calls, order)
