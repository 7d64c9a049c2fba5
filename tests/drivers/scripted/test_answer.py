"""Whole answers to requests with grammars: the script where it fits, the nearest thing where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from llguidance import LLMatcher

from tokenwell.bundled.checkpoint import scripted_folder
from tokenwell.chat.conversation import Conversation, Message
from tokenwell.chat.formats import FORMATS
from tokenwell.chat.model import ChatModel
from tokenwell.drivers.scripted.answer import Author
from tokenwell.drivers.scripted.calls import arranged
from tokenwell.drivers.scripted.forced import GrammarRefused
from tokenwell.drivers.scripted.writing import Writer
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
CALL = 'call: <tool_call> "\\n{\\"name\\": \\"f\\", \\"arguments\\": " args "}\\n" </tool_call>\nargs: %json ' + json.dumps(
    {
        "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
)
AUTO = f'start: TEXT (call ("\\n" call)*)?\nTEXT: /(?s:[^{{]*)/\n{CALL}'
ONE = f"start: TEXT call?\nTEXT: /(?s:[^{{]*)/\n{CALL}"
REQUIRED = f"start: call\n{CALL}"
NO_CALL = "start: /(?s:.*)/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripted_folder(tmp_path_factory.mktemp("cache"))


def _answer(folder: Path, text: str, grammar: str | None, name: str = "hermes", max_tokens: int = 500) -> str:
    """The text that is answered to one user message, marks visible, without the end."""
    model = ChatModel.load(folder, chat_format=name)
    prompt = model.render(Conversation((Message(role="user", content=text),), (TOOL,)))
    model.tokenizer.encoder.encode_special_tokens = True
    author = Author(model.tokenizer, Writer(model.format, model.tokenizer, model.tokenizer.added["<|im_end|>"]))
    tokens = author.tokens(Generate("r", prompt.tokens, Sampling(grammar=grammar, max_tokens=max_tokens)))
    shown = model.tokenizer.decode(tokens, skip_special_tokens=False)
    assert shown.endswith("<|im_end|>")
    return shown.removesuffix("<|im_end|>")


def _call(a: int) -> str:
    return f'<tool_call>\n{{"name": "f", "arguments": {{"a": {a}}}}}\n</tool_call>'


@pytest.mark.parametrize("grammar", [None, AUTO])
def test_a_script_that_fits_is_followed(folder: Path, grammar: str | None) -> None:
    script = '[[say Look: ]] [[call f {"a": 1}]] [[call f {"a": 2}]]'
    assert _answer(folder, script, grammar) == f"Look: {_call(1)}\n{_call(2)}"


def test_arguments_are_written_in_the_order_that_the_grammar_wants(folder: Path) -> None:
    value = {"z": 1, "b": {"d": 1, "c": [{"f": 1, "e": 2}]}, "a": {"h": 1, "g": 2}}
    schema = {
        "properties": {
            "a": {"anyOf": [{"type": "null"}, {"properties": {"g": {}, "h": {}}}]},
            "b": {"properties": {"c": {"items": {"properties": {"e": {}, "f": {}}}}, "d": {}}},
        }
    }
    wanted = {"a": {"g": 2, "h": 1}, "b": {"c": [{"e": 2, "f": 1}], "d": 1}, "z": 1}
    assert json.dumps(arranged(value, schema)) == json.dumps(wanted)
    assert arranged(value, True) == arranged(value, {"anyOf": [{}]}) == value


def test_of_calls_that_may_not_be_parallel_the_first_is_made(folder: Path) -> None:
    assert _answer(folder, '[[call f {"a": 1}]] [[call f {"a": 2}]]', ONE) == _call(1)


def test_what_may_not_stand_before_a_call_is_left_out(folder: Path) -> None:
    assert _answer(folder, '[[say Look: ]] [[call f {"a": 1}]]', REQUIRED) == _call(1)


def test_a_call_that_is_not_allowed_is_told_in_words(folder: Path) -> None:
    assert "does not fit" in _answer(folder, '[[call other {"a": 1}]]', AUTO)
    assert "does not fit" in _answer(folder, '[[call f {"a": "wrong"}]]', AUTO)
    assert "does not fit" in _answer(folder, '[[call f {"a": 1}]]', NO_CALL)


@pytest.mark.parametrize("text", ["hello", "[[say no]]", '[[call other {"a": 1}]]'])
def test_a_forced_call_without_a_fitting_script_is_a_small_one(folder: Path, text: str) -> None:
    assert _answer(folder, text, REQUIRED) == _call(0)


def test_a_schema_is_answered_by_the_script_or_an_instance(folder: Path) -> None:
    grammar = LLMatcher.grammar_from_json_schema({"type": "array", "items": {"type": "integer"}, "minItems": 1})
    assert _answer(folder, "[[say [7, 8]]]", grammar) == "[7, 8]"
    assert _answer(folder, "[[say 7, 8]]", grammar) == "[0]"
    assert _answer(folder, "hello", grammar) == "[0]"


def test_a_message_has_its_header_where_every_message_has_one(folder: Path) -> None:
    thought = '(<|channel|> "analysis" <|message|> /(?s:.*)/ <|end|> <|start|> "assistant")?'
    grammar = f'start: {thought} <|channel|> "final" <|message|> "{{}}"'
    assert _answer(folder, "hello", grammar, "harmony") == "<|channel|>final<|message|>{}"


def test_what_no_text_can_follow_is_refused(folder: Path) -> None:
    with pytest.raises(GrammarRefused):
        _answer(folder, "hello", "start: %broken")
    with pytest.raises(GrammarRefused):
        _answer(folder, "hello", LLMatcher.grammar_from_json_schema({"type": "string", "minLength": 90}), max_tokens=50)


@pytest.mark.parametrize("name", list(FORMATS))
def test_garbage_has_marks_and_an_end(folder: Path, name: str) -> None:
    model = ChatModel.load(folder, chat_format=name)
    author = Author(model.tokenizer, Writer(model.format, model.tokenizer, model.tokenizer.added["<|im_end|>"]))
    assert author.garbage(1) == author.garbage(1) != author.garbage(2)
    assert set(author.garbage(1)) & model.tokenizer.special_ids
