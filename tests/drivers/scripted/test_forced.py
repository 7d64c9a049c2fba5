"""Smallest instances: what a walk through a grammar gives is valid, short and ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher

from tokenwell.bundled.checkpoint import scripted_folder
from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.drivers.scripted.forced import Forced, GrammarRefused

TEXTS = {"type": "string"}
SCHEMAS: list[Any] = [
    {"type": "object"},
    {
        "type": "object",
        "properties": {"a": TEXTS, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    {"type": "object", "properties": {"a": TEXTS}, "additionalProperties": False},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "pattern": "^conv_[a-f0-9]{32}$"},
    {"type": "string", "pattern": "^x+y+z$"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "enum": ["größe", "🙂"]},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "integer", "minimum": 137, "maximum": 8640000000000000},
    {"type": "integer", "maximum": -5},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 3},
    {"type": "array", "prefixItems": [TEXTS, {"type": "null"}], "items": False, "minItems": 2},
    {"anyOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}, {"type": "array", "minItems": 1}]},
    {"type": ["null", "string"]},
    {"const": {"deep": [1, {"er": "]]"}]}},
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"type": "integer"}},
                "required": ["v"],
            }
        },
        "$ref": "#/$defs/node",
    },
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    loaded = Tokenizer.load(scripted_folder(tmp_path_factory.mktemp("cache")))
    loaded.encoder.encode_special_tokens = True
    return loaded


@pytest.fixture(scope="module")
def forced(tokenizer: Tokenizer) -> Forced:
    return Forced(tokenizer, _end(tokenizer), last=[tokenizer.added["<think>"]])


def _end(tokenizer: Tokenizer) -> int:
    return tokenizer.added["<|im_end|>"]


def _text(tokenizer: Tokenizer, answer: list[int] | None) -> str:
    assert answer is not None
    return tokenizer.decode(answer, skip_special_tokens=False)


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_a_schema_gives_a_valid_instance(forced: Forced, tokenizer: Tokenizer, schema: Any) -> None:
    matcher = forced.matcher(LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False}))
    text = _text(tokenizer, forced.smallest(matcher, [], [], 1000))
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    assert len(text) < 80


NUMBER = {"type": "number"}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]}, '{"a": 0, "b": 1}'),
        ({"type": "array", "items": NUMBER, "minItems": 3}, "[0, 1, 2]"),
    ],
)
def test_a_number_ends_before_another_value(forced: Forced, tokenizer: Tokenizer, schema: Any, text: str) -> None:
    spaces = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    matcher = forced.matcher(LLMatcher.grammar_from_json_schema(schema, overrides=spaces))
    assert _text(tokenizer, forced.smallest(matcher, [], [], 1000)) == text


def test_flexible_white_space_is_no_trap(forced: Forced, tokenizer: Tokenizer) -> None:
    matcher = forced.matcher(LLMatcher.grammar_from_json_schema(SCHEMAS[1], overrides={"whitespace_flexible": True}))
    assert json.loads(_text(tokenizer, forced.smallest(matcher, [], [], 1000))) == {"a": "", "b": 0}


def test_a_forced_call_follows_a_thought_that_need_not_be(forced: Forced, tokenizer: Tokenizer) -> None:
    grammar = (
        "start: (<think> /(?s:.*)/ </think>)? <tool_call> args </tool_call>\n"
        'args: "{\\"name\\": \\"f\\", \\"arguments\\": " %json {"type": "object"} "}"'
    )
    text = _text(tokenizer, forced.smallest(forced.matcher(grammar), [], [], 1000))
    assert text == '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


def test_free_text_before_a_forced_call_is_left_out(forced: Forced, tokenizer: Tokenizer) -> None:
    matcher = forced.matcher('start: /(?s:.*)/ <tool_call> "f" </tool_call>')
    opening = [tokenizer.added["<tool_call>"], *tokenizer.encode("f", add_special_tokens=False)]
    assert _text(tokenizer, forced.smallest(matcher, [opening], [], 1000)) == "<tool_call>f</tool_call>"


def test_closings_end_raw_text(forced: Forced, tokenizer: Tokenizer) -> None:
    closing = tokenizer.encode("\n</parameter>\n", add_special_tokens=False)
    matcher = forced.matcher('start: "<parameter=a>\\n" value\nvalue[suffix="\\n</parameter>\\n"]: /(?s:.*)/')
    assert _text(tokenizer, forced.smallest(matcher, [], [closing], 1000)) == "<parameter=a>\n\n</parameter>\n"


def test_what_needs_more_tokens_than_there_are_is_not_found(forced: Forced) -> None:
    matcher = forced.matcher(LLMatcher.grammar_from_json_schema({"type": "string", "minLength": 300}))
    assert forced.smallest(matcher, [], [], 100) is None


def test_a_broken_grammar_is_refused(forced: Forced) -> None:
    with pytest.raises(GrammarRefused):
        forced.matcher("start: %broken")


def test_fitting_asks_for_a_whole_answer(forced: Forced, tokenizer: Tokenizer) -> None:
    matcher = forced.matcher(LLMatcher.grammar_from_json_schema({"type": "integer"}))
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in ("42", "4x", "-")]
    assert [forced.fits(matcher, each) for each in ids] == [True, False, False]


def test_no_folder_state_is_left(tmp_path: Path) -> None:
    """The folder that tokens come from is the same when it is asked for again."""
    first = scripted_folder(tmp_path)
    stamp = (first / "tokenizer.json").stat().st_mtime_ns
    assert scripted_folder(tmp_path) == first
    assert (first / "tokenizer.json").stat().st_mtime_ns == stamp
