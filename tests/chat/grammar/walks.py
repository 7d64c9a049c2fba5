"""Random walks through grammars: a model without sense, that writes any token that is allowed."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from tokenwell.chat.conversation import Conversation, OutputFormat, ToolChoice
from tokenwell.chat.events import Content, Event, ToolArguments, ToolEnd, ToolStart
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.formats.bound import Bound, bind
from tokenwell.chat.formats.format import Call
from tokenwell.chat.grammar.answer import Vocabulary
from tokenwell.chat.grammar.constraint import Constraint, constrain
from tokenwell.chat.parser import Parser

_WORDS = ("\n</parameter>", "</think>", "</tool_call>", " the", "hello", '": "', '", "', "\n</", '"}', "name")
_ENDING = [ord(letter) for letter in '"}],\n:']


class _Bytes:
    """A vocabulary of all bytes, some words, and special tokens; id 0 ends the text."""

    def __init__(self, special: Sequence[str], words: Sequence[str]) -> None:
        texts = ["<eos>", *special, "<other>"]
        self.special = {text: id for id, text in enumerate(texts)}
        first = len(texts)
        self.tokens = [*(text.encode() for text in texts), *(bytes([byte]) for byte in range(256))]
        self.tokens += [word.encode() for word in (*_WORDS, *words)]
        self.first_byte = first
        self.eos_token_id = 0
        self.bos_token_id = None
        self.special_token_ids = list(range(first))

    def __call__(self, text: str | bytes) -> list[int]:
        raw = text.encode() if isinstance(text, str) else text
        return [self.first_byte + byte for byte in raw]


@dataclass(frozen=True)
class Speaker:
    """A chat format bound to a small vocabulary."""

    bound: Bound
    vocabulary: Vocabulary
    words: _Bytes
    tokenizer: LLTokenizer

    @classmethod
    def of(cls, name: str, call: Call | None = None, marks_are_tokens: bool = True) -> Speaker:
        """The format with its marks as tokens, or as text."""
        marks = FORMATS[name].marks
        words = _Bytes(marks, ()) if marks_are_tokens else _Bytes((), marks)
        bound = bind(FORMATS[name], words.special, call)
        visible = {mark: words.tokens.index(mark.encode()) for mark in marks}
        special = frozenset(words.special_token_ids)
        vocabulary = Vocabulary(len(words.tokens), special, frozenset({0}), {} if marks_are_tokens else visible)
        return cls(bound, vocabulary, words, LLTokenizer(TokenizerWrapper(words), eos_token=0))

    def constrain(self, tools: Sequence[dict[str, Any]], mode: Any = "required", **more: Any) -> Constraint:
        """The constraint of a conversation with these tools."""
        reasoning = more.pop("reasoning", False)
        names = more.pop("names", ())
        conversation = Conversation((), tools=tuple(tools), tool_choice=ToolChoice(mode, names), **more)
        return constrain(self.bound, self.vocabulary, conversation, reasoning)

    def ids(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are written out."""
        known = {**self.words.special, **self.vocabulary.visible}
        marks = sorted(known, key=len, reverse=True)
        result: list[int] = []
        for part in re.split("(" + "|".join(map(re.escape, marks)) + ")", text):
            result += [known[part]] if part in known else self.words(part)
        return result

    def accepts(self, grammar: str | None, text: str) -> bool:
        """Whether the text may be written, and may end."""
        assert grammar is not None
        matcher = LLMatcher(self.tokenizer, grammar)
        ids = self.ids(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def begins(self, grammar: str | None, text: str) -> bool:
        """Whether the text may be written, whatever comes then."""
        assert grammar is not None
        ids = self.ids(text)
        return LLMatcher(self.tokenizer, grammar).try_consume_tokens(ids) == len(ids)

    def walk(self, grammar: str | None, seed: int, limit: int = 3000, eager: float = 0.5) -> list[int] | None:
        """Ids of one random answer; None when it found no end. `eager`: how likely it ends where it may."""
        assert grammar is not None
        chance = random.Random(seed)
        matcher = LLMatcher(self.tokenizer, grammar)
        ids: list[int] = []
        while len(ids) < limit:
            mask = int.from_bytes(matcher.compute_bitmask(), "little")
            assert not matcher.is_error(), matcher.get_error()
            allowed = [id for id in range(1, len(self.words.tokens)) if mask >> id & 1]
            # Markup behind an open backtick is prose, so this model quotes nothing that it need not.
            allowed = [id for id in allowed if id not in self.words("`")] or allowed
            if not allowed or (matcher.is_accepting() and chance.random() < eager):
                assert matcher.is_accepting()
                return ids
            # Closers are preferred: a random text would never end.
            structural = [id for id in allowed if id < self.words.first_byte or id >= self.words.first_byte + 256]
            structural += [id for id in allowed if id - self.words.first_byte in _ENDING]
            pool = structural if structural and chance.random() < 0.3 else allowed
            ids.append(chance.choice(pool))
            assert matcher.consume_token(ids[-1])
        return None

    def text(self, ids: Sequence[int]) -> str:
        """The text that a parser reads."""
        runs: list[bytes] = []
        pieces: list[str] = []
        for id in ids:
            if id in self.bound.ids:
                pieces += [b"".join(runs).decode("utf-8", "replace"), self.bound.ids[id]]
                runs.clear()
            else:
                runs.append(self.words.tokens[id])
        return "".join([*pieces, b"".join(runs).decode("utf-8", "replace")])

    def events(self, ids: Sequence[int], tools: Sequence[dict[str, Any]], reasoning: bool = False) -> list[Event]:
        """What the real parser reads."""
        parser = Parser(self.bound, tools, reasoning, "id")
        return [*parser.feed(self.text(ids)), *parser.finish()]


def tool(name: str, parameters: Any) -> dict[str, Any]:
    """A tool as templates get it."""
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def calls(events: Sequence[Event]) -> list[tuple[str, str]]:
    """Name and arguments of the calls, which must all be complete."""
    names: dict[int, str] = {}
    texts: dict[int, str] = {}
    ended: set[int] = set()
    for event in events:
        if isinstance(event, ToolStart):
            names[event.index], texts[event.index] = event.name, ""
        elif isinstance(event, ToolArguments):
            texts[event.index] += event.text
        elif isinstance(event, ToolEnd):
            ended.add(event.index)
    assert ended == set(names)
    return [(names[index], texts[index]) for index in sorted(names)]


def content(events: Sequence[Event]) -> str:
    """The visible text."""
    return "".join(event.text for event in events if isinstance(event, Content))


def output(kind: Any, value: Any = None) -> OutputFormat:
    """What a text must look like."""
    return OutputFormat(kind, value)


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of the kind that agents send; at depth 0 an object."""
    simple = ("string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "length")
    kind = "object" if depth == 0 else chance.choice(simple + (() if depth > 3 else ("object", "array", "union", "types")))
    match kind:
        case "object":
            names = chance.sample(["path", "a", "b", "line_count", "Mode", "x1", "edits", "file-name"], chance.randint(0, 4))
            properties = {name: random_schema(chance, depth + 1) for name in names}
            required = [name for name in names if chance.random() < 0.5]
            schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
            return schema | ({"additionalProperties": False} if chance.random() < 0.8 else {})
        case "array":
            low = chance.randint(0, 2)
            return {"type": "array", "items": random_schema(chance, depth + 1), "minItems": low, "maxItems": low + 2}
        case "union":
            return {"anyOf": [random_schema(chance, depth + 1), {"type": "object", "required": ["k"], "properties": {"k": {}}}]}
        case "types":
            return {"type": chance.choice([["integer", "null"], ["boolean", "null"], ["array", "null"]])}
        case "enum":
            return {"enum": chance.sample(["a", "b c", 'q"u', "naïve"], 2)}
        case "const":
            return {"const": chance.choice(["fixed", "two\nlines"])}
        case "pattern":
            return {
                "type": "string",
                "pattern": chance.choice(["^[a-z]+$", "^\\d{2,4}-\\w$", "[a-z]", "^(a|b)+:[^/]$", "^\\S(?:.*\\S)?$"]),
            }
        case "length":
            return {"type": "string", "minLength": 2, "maxLength": 5}
        case "integer":
            return {"type": "integer", "minimum": chance.randint(-9, 0), "maximum": chance.randint(1, 500)}
        case "number":
            return {"type": "number", "exclusiveMinimum": 0, "maximum": 10}
    return {"type": kind}
