"""What a constraint lets through, what it keeps out, and what it says about itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.chat.grammar.walks import Speaker, output, tool

from tokenwell.chat.conversation import ChatError, Check, Conversation
from tokenwell.chat.events import Content, ToolArguments, ToolEnd, ToolStart
from tokenwell.chat.grammar.checks import violations
from tokenwell.chat.grammar.constraint import Constrainer, constrain_text

READ = tool(
    "read",
    {
        "type": "object",
        "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["path"],
        "additionalProperties": False,
    },
)
CALLS = {
    "gemma4": '<|tool_call>call:read{path:<|"|>a "b"\n{<|"|>}<tool_call|>',
    "harmony": '<|channel|>commentary to=functions.read <|constrain|>json<|message|>{"path": "a", "limit": 3}<|call|>',
    "hermes": '<tool_call>\n{"name": "read", "arguments": {"path": "a", "limit": 3}}\n</tool_call>',
    "qwen_xml": "<tool_call>\n<function=read>\n<parameter=path>\na\n<b>\n</parameter>\n</function>\n</tool_call>",
    "llama3": '{"name": "read", "parameters": {"path": "a"}}',
    "mistral": '[TOOL_CALLS]read[ARGS]{"path": "a"}',
    "deepseek": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read<｜tool▁sep｜>{"path": "a"}<｜tool▁call▁end｜>'
    "<｜tool▁calls▁end｜>",
}
BOTH = pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "text"])


@BOTH
@pytest.mark.parametrize("name", CALLS)
def test_native_calls_pass(name: str, tokens: bool) -> None:
    speaker = Speaker.of(name, marks_are_tokens=tokens)
    for mode in ("auto", "required"):
        grammar = speaker.constrain([READ], mode).grammar
        assert speaker.accepts(grammar, CALLS[name])
        assert not speaker.begins(grammar, CALLS[name].replace("read", "write"))
        assert not speaker.begins(grammar, CALLS[name].replace("path", "puth"))


@BOTH
@pytest.mark.parametrize("name", [name for name in CALLS if name != "harmony"])
def test_text_stays_free(name: str, tokens: bool) -> None:
    speaker = Speaker.of(name, marks_are_tokens=tokens)
    grammar = speaker.constrain([READ], "auto").grammar
    for text in ("", "hello <b> {}", '{"a": 1}', "<tool_cal l>", "odd<other>tokens", "[]"):
        assert speaker.accepts(grammar, text), text
    required = speaker.constrain([READ]).grammar
    assert not speaker.begins(required, "hello")


@pytest.mark.parametrize("name", ["hermes", "gemma4", "qwen_xml", "deepseek"])
@BOTH
def test_thinking_comes_first(name: str, tokens: bool) -> None:
    speaker = Speaker.of(name, marks_are_tokens=tokens)
    thinking = speaker.bound.format.thinking
    assert thinking is not None
    thought = f"let me see{thinking.close}{thinking.after}"
    for mode in ("auto", "required"):
        assert speaker.accepts(speaker.constrain([READ], mode, reasoning=True).grammar, thought + CALLS[name])
        assert speaker.accepts(speaker.constrain([READ], mode).grammar, thinking.open + thought + CALLS[name])
    answer = speaker.constrain([], "auto", output=output("choice", ["yes", "no"]))
    assert speaker.accepts(answer.grammar, thinking.open + thought + "no")


def test_one_call_when_calls_are_not_parallel() -> None:
    speaker = Speaker.of("hermes")
    call = CALLS["hermes"]
    for mode in ("auto", "required"):
        assert speaker.accepts(speaker.constrain([READ], mode).grammar, f"{call}\n{call}")
        single = speaker.constrain([READ], mode, parallel_tool_calls=False).grammar
        assert speaker.accepts(single, call)
        assert not speaker.begins(single, f"{call}\n<tool_call>")


def test_only_the_named_tool() -> None:
    speaker = Speaker.of("hermes")
    write = tool("write", None)
    grammar = speaker.constrain([READ, write], names=("write",)).grammar
    assert speaker.accepts(grammar, '<tool_call>\n{"name": "write", "arguments": {}}\n</tool_call>')
    assert not speaker.begins(grammar, CALLS["hermes"])


def test_no_call_opens_when_none_may() -> None:
    speaker = Speaker.of("gemma4")
    grammar = speaker.constrain([READ], "none").grammar
    assert speaker.accepts(grammar, "hello")
    assert not speaker.begins(grammar, "<|tool_call>")


@pytest.mark.parametrize(
    ("kind", "value", "good", "bad"),
    [
        ("json_object", None, '{"a": [1, {"b": null}]}', "[1]"),
        ("json_object", None, '{"a":1}', '{"a":    1}'),
        ("json_schema", {"type": "integer"}, "12", '"12"'),
        ("choice", ["yes", "no / never", "a.b"], "no / never", "axb"),
        ("regex", "^\\d{3}-[a/z]+$", "123-a/z", "12-az"),
        ("grammar", 'start: "a"+ b\nb: "!"', "aa!", "aa"),
        ("grammar", 'root ::= "x" [0-9]+', "x12", "y"),
    ],
)
def test_output_formats(kind: str, value: Any, good: str, bad: str) -> None:
    speaker = Speaker.of("hermes")
    for grammar in (
        constrain_text(output(kind, value)).grammar,
        speaker.constrain([], "auto", output=output(kind, value)).grammar,
        speaker.constrain([READ], "auto", output=output(kind, value)).grammar,
    ):
        assert speaker.accepts(grammar, good)
        assert not speaker.accepts(grammar, bad)


@pytest.mark.parametrize(
    ("kind", "value"), [("regex", "("), ("regex", "a(?=b)"), ("grammar", "start: nothing"), ("grammar", "root ::= (")]
)
def test_what_is_no_grammar_is_refused(kind: str, value: str) -> None:
    with pytest.raises(ChatError, match="response_format"):
        constrain_text(output(kind, value))


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"type": "klingon"}}}, ".properties.a.type"),
        ({"properties": []}, ".properties"),
        ({"properties": {"a": 3}}, ".properties.a"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, ".properties.a.$ref"),
        ({"properties": {"a": {"$ref": "https://example.org/s"}}}, ".properties.a.$ref"),
        ({"required": "a"}, ".required"),
        ({"properties": {"a": {"enum": []}}}, ".properties.a.enum"),
        ({"allOf": [{"$ref": "#"}]}, ".allOf[0]"),
        ({"type": "string"}, ".type"),
        ({"properties": {"a": {"pattern": 3}}}, ".properties.a.pattern"),
        ({"properties": {"a": {"minLength": -1}}}, ".properties.a.minLength"),
        ({"properties": {"a": {"minimum": "1"}}}, ".properties.a.minimum"),
        ({"properties": {"a": {"enum": ["x" * 600_000]}}}, ""),
    ],
)
@pytest.mark.parametrize("name", ["hermes", "gemma4", "qwen_xml"])
def test_what_is_no_schema_is_refused_by_its_place(name: str, schema: Any, place: str) -> None:
    with pytest.raises(ChatError) as caught:
        Speaker.of(name).constrain([tool("first", None), tool("f", schema)])
    assert caught.value.param == "tools[1].parameters" + place
    assert caught.value.param in str(caught.value)


@pytest.mark.parametrize(
    ("part", "keyword"),
    [
        ({"type": "string", "pattern": "^(?!x)"}, "pattern"),
        ({"type": "string", "format": "our-own"}, "format"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "null"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf"),
        ({"oneOf": [{"type": "object"}, {"type": "object", "required": ["a"]}]}, "oneOf"),
    ],
)
@pytest.mark.parametrize("name", ["hermes", "gemma4", "qwen_xml"])
def test_what_cannot_be_said_is_told_and_checked(name: str, part: Any, keyword: str) -> None:
    made = Speaker.of(name).constrain([tool("f", {"type": "object", "properties": {"a": part, "b": {"type": "integer"}}})])
    assert made.warnings == (f"tools[0].parameters.properties.a.{keyword}: cannot be enforced and is checked afterwards",)
    assert [check.tool for check in made.checks] == ["f"]


def test_checks_find_what_the_grammar_let_through() -> None:
    check = Check("f", json.dumps({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}), "tools[0].parameters")
    good = [ToolStart(0, "x", "f"), ToolArguments(0, '{"a": '), ToolArguments(0, "1}"), ToolEnd(0)]
    bad = [ToolStart(1, "y", "f"), ToolArguments(1, '{"a": null}'), ToolEnd(1)]
    cut = [ToolStart(2, "z", "f"), ToolArguments(2, '{"a": nu')]
    assert violations([check], good) == ()
    (warning,) = violations([check], [*good, *bad, *cut])
    assert warning.startswith("tools[0].parameters: the arguments of call 1 (f) do not fit the schema at `.a`")
    content = Check(None, '{"type": "integer"}', "response_format")
    assert violations([content], [Content("1"), Content("2")]) == ()
    assert len(violations([content], [Content("no")])) == 1


@pytest.mark.parametrize("pattern", ["(", "(a+)+\\p{L}", "[z-a]"])
def test_a_check_that_cannot_be_made_is_told(pattern: str) -> None:
    check = Check(None, json.dumps({"type": "string", "pattern": pattern}), "response_format")
    (warning,) = violations([check], [Content('"a"')])
    assert "could not be checked" in warning


def test_names() -> None:
    with pytest.raises(ChatError) as caught:
        Speaker.of("gemma4").constrain([tool("a b{", None)])
    assert caught.value.param == "tools[0].name"
    speaker = Speaker.of("hermes")
    assert speaker.accepts(
        speaker.constrain([tool('a "b"', None)]).grammar, '<tool_call>\n{"name": "a \\"b\\"", "arguments": {}}\n</tool_call>'
    )
    with pytest.raises(ChatError) as caught:
        speaker.constrain([READ, READ])
    assert caught.value.param == "tools[1].name"


def test_the_same_tools_are_prepared_once() -> None:
    speaker = Speaker.of("hermes")
    constrainer = Constrainer(speaker.bound, speaker.vocabulary)
    first = constrainer.constrain(Conversation((), tools=(READ,)))
    assert constrainer.constrain(Conversation((), tools=(json.loads(json.dumps(READ)),))) is first
    assert constrainer.constrain(Conversation((), tools=(READ,)), reasoning=True) is not first
    assert constrainer.constrain(Conversation(())).grammar is None
