"""What a conversation's answer is held to: one grammar, what it cannot say, and what is checked afterwards instead."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from tokenwell.chat.conversation import ChatError, Check, Conversation, OutputFormat
from tokenwell.chat.formats.bound import Bound
from tokenwell.chat.formats.format import Call
from tokenwell.chat.formats.gemma4 import STRING
from tokenwell.chat.grammar.answer import Answer, Vocabulary, Wanted
from tokenwell.chat.grammar.channels import channels_start
from tokenwell.chat.grammar.closed import closed
from tokenwell.chat.grammar.gemma import GemmaArguments
from tokenwell.chat.grammar.lark import RELAXED, SPELLED, Rules, complaint, escaped, inline_json, regex
from tokenwell.chat.grammar.patterns import matched
from tokenwell.chat.grammar.relax import fit
from tokenwell.chat.grammar.schema import read
from tokenwell.chat.grammar.xml import XmlArguments

MAX_BYTES = 4 * 2**20  # of a grammar
_KEPT = 64  # constraints remembered by one model
_LONGEST_THOUGHT = 2**15  # tokens, before an answer that is held to something
_WRITTEN_RAW = frozenset(" \t\r\n<>{}[]()\"'|:,;=\\/`")  # characters that end a name where no JSON encloses it


class Constraint(msgspec.Struct, frozen=True):
    """`grammar` None: the answer is free. `warnings` name what is checked afterwards, by `checks`."""

    grammar: str | None = None
    warnings: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


FREE = Constraint()


class Constrainer:
    """Makes the constraints of one model, and remembers them: agents send the same tools with every turn. Safe in threads."""

    def __init__(self, bound: Bound, vocabulary: Vocabulary) -> None:
        self._bound = bound
        self._vocabulary = vocabulary
        self._known: OrderedDict[bytes, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def constrain(self, conversation: Conversation, reasoning: bool = False, max_tokens: int | None = None) -> Constraint:
        """The constraint of this conversation's answer; `reasoning`: its prompt ends inside thinking. Raises ChatError.

        `max_tokens`: the length that the answer may have, so that thinking leaves room for what was asked for.
        """
        if not conversation.tools and conversation.output is None:
            return FREE
        continues = conversation.continue_final_message
        thinking_tokens = thinking_share(max_tokens)
        parts = (
            conversation.tools,
            conversation.tool_fields,
            conversation.tool_choice,
            conversation.parallel_tool_calls,
            conversation.output,
            reasoning,
            continues,
            thinking_tokens,
        )
        return self._remembered(
            msgspec.json.encode(parts),
            lambda: constrain(self._bound, self._vocabulary, conversation, reasoning, thinking_tokens),
        )

    def constrain_text(self, output: OutputFormat | None) -> Constraint:
        """The constraint of a raw completion. Raises ChatError."""
        if output is None:
            return FREE
        return self._remembered(msgspec.json.encode(output), lambda: constrain_text(output))

    def _remembered(self, key: bytes, make: Callable[[], Constraint]) -> Constraint:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        made = make()
        with self._lock:
            self._known[key] = made
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return made


def thinking_share(max_tokens: int | None) -> int:
    """Half of the answer, as a power of two: clients send another limit with every turn, and each would be a new grammar."""
    half = max(_LONGEST_THOUGHT if max_tokens is None else min(max_tokens // 2, _LONGEST_THOUGHT), 1)
    return 1 << (half.bit_length() - 1)


def constrain(
    bound: Bound,
    vocabulary: Vocabulary,
    conversation: Conversation,
    reasoning: bool = False,
    thinking_tokens: int = 4096,
) -> Constraint:
    """The constraint of a conversation's answer. Raises ChatError naming the request's field that cannot be honoured."""
    rules = Rules()
    answer = Answer(rules, bound, vocabulary)
    choice = conversation.tool_choice
    called = _callable_tools(bound, conversation)
    if choice.mode == "required" and not called:
        raise ChatError("A tool call is required, but there is no tool that may be called.", "tool_choice")
    arguments: dict[str, str] = {}
    left_out: list[str] = []
    checks: list[Check] = []
    for name, (where, schema) in called.items():
        assert bound.call is not None
        rule, missing = _arguments(rules, bound, bound.call, schema, where)
        arguments[name] = rule
        if missing:
            left_out += missing
            checks.append(Check(name, json.dumps(schema), where))
    text, unsaid, nested = _output(conversation.output)
    if text is None and bound.call is None:
        return FREE
    left_out += unsaid
    if unsaid and conversation.output is not None:
        checks.append(Check(None, json.dumps(_object_schema(conversation.output)), conversation.output.param))
    content = rules.rule("content", text) if text is not None else None
    wanted = Wanted(arguments, content, choice.mode == "required", conversation.parallel_tool_calls, reasoning, thinking_tokens)
    if bound.format.channels is not None:
        start = channels_start(answer, bound.format.channels, wanted, conversation.continue_final_message)
    else:
        start = answer.start(wanted)
    return _constraint(rules.text(start), left_out, checks, nested, conversation.output)


def constrain_text(output: OutputFormat) -> Constraint:
    """The constraint of a raw completion, whose whole text has the format. Raises ChatError."""
    text, unsaid, nested = _output(output)
    assert text is not None
    checks = [Check(None, json.dumps(_object_schema(output)), output.param)] if unsaid else []
    return _constraint(Rules().text(text), unsaid, checks, nested, output)


def _constraint(
    main: str, left_out: list[str], checks: list[Check], nested: str | None, output: OutputFormat | None
) -> Constraint:
    grammar = main
    if nested is not None:
        grammar = json.dumps({"grammars": [{"lark_grammar": main}, {"name": "answer", "lark_grammar": nested}]})
    if len(grammar) > MAX_BYTES:
        raise ChatError(f"The tools' schemas are too large together: their grammar has {len(grammar)} bytes.", "tools")
    if (wrong := complaint(grammar)) is not None:
        param = "tools" if output is None else output.param
        raise ChatError(f"`{param}` cannot be turned into a grammar: {wrong[:500]}", param)
    warnings = tuple(f"{place}: cannot be enforced and is checked afterwards" for place in dict.fromkeys(left_out))
    return Constraint(grammar, warnings, tuple(checks))


# ---------------------------------------------------------------- tools


def _callable_tools(bound: Bound, conversation: Conversation) -> dict[str, tuple[str, Any]]:
    """Name -> (the request's field, the schema of its arguments) of every tool that may be called."""
    choice, call = conversation.tool_choice, bound.call
    result: dict[str, tuple[str, Any]] = {}
    seen: set[str] = set()
    for index, tool in enumerate(conversation.tools):
        function = tool.get("function") or {}
        name = function.get("name") or ""
        where = conversation.tool_fields[index] if conversation.tool_fields else f"tools[{index}].parameters"
        named = f"{where.rpartition('.')[0]}.name"
        if name in seen:
            raise ChatError(f"`{named}`: a second tool is named `{name[:100]}`; names must differ.", named)
        seen.add(name)
        if choice.mode == "none" or call is None or (choice.names and name not in choice.names):
            continue
        _check_name(call, name, named)
        result[name] = (where, _parameters(function.get("parameters")))
    if unknown := [name for name in choice.names if name not in seen]:
        raise ChatError(f"`tool_choice` names `{unknown[0][:100]}`, which is none of the request's tools.", "tool_choice")
    return result


def _check_name(call: Call, name: str, where: str) -> None:
    if not name:
        raise ChatError(f"`{where}` is missing.", where)
    if not call.envelope and _WRITTEN_RAW.intersection(name):
        raise ChatError(
            f"`{where}`: this model cannot write the name `{name[:100]}` in a call; use letters, digits, `_`, `-` and `.`.", where
        )


def _parameters(parameters: Any) -> Any:
    """Arguments are an object whatever the schema says; a tool without parameters takes none."""
    if parameters is None:
        return {"type": "object", "additionalProperties": False}
    if isinstance(parameters, dict) and parameters.get("type") in (None, ["object", "null"], ["null", "object"]):
        return {**parameters, "type": "object"}
    return parameters


def _arguments(rules: Rules, bound: Bound, call: Call, schema: Any, where: str) -> tuple[str, tuple[str, ...]]:
    """The rule of a tool's arguments, and the places of what it does not say."""
    found = read(closed(schema), where)
    if not isinstance(found.schema, dict) or found.schema.get("type") != "object":
        raise ChatError(f"`{where}.type` must be `object`: arguments are named.", f"{where}.type")
    if call.arguments == "gemma":
        gemma = GemmaArguments(rules, found.schema, bound.spelled(STRING), {mark: id for id, mark in bound.ids.items()})
        return gemma.arguments(where), (*found.left_out, *gemma.left_out)
    if call.arguments == "xml":
        xml = XmlArguments(rules, found.schema)
        return xml.arguments(where), (*found.left_out, *xml.left_out)
    fitted = fit(found, where)
    return rules.rule("arguments", inline_json(fitted.schema, SPELLED)), fitted.left_out


# ---------------------------------------------------------------- output formats


def _object_schema(output: OutputFormat) -> Any:
    return {"type": "object"} if output.kind == "json_object" else output.value


def _output(output: OutputFormat | None) -> tuple[str | None, list[str], str | None]:
    """The body of the content's rule, places that it leaves out, and a grammar of the client's that the body refers to."""
    if output is None:
        return None, [], None
    if output.kind in ("json_object", "json_schema"):
        fitted = fit(read(closed(_object_schema(output)), output.param), output.param)
        return inline_json(fitted.schema, RELAXED), list(fitted.left_out), None
    if output.kind == "choice":
        # As one terminal: the matcher would follow thousands of rules side by side.
        return regex("|".join(map(escaped, output.value))), [], None
    if output.kind == "regex":
        pattern = matched(output.value)
        if pattern is None:
            raise ChatError(
                f"`{output.param}` is no regular expression that can be enforced: {_regex_fault(output.value)}", output.param
            )
        return regex(pattern), [], None
    return "@answer", [], _client_grammar(output)


def _regex_fault(pattern: str) -> str:
    rules = Rules()
    wrong = complaint(rules.text(rules.rule("TEXT", regex(pattern)))) or "anchors inside it are not supported"
    return wrong.replace("\n", " ")[:300]


def _client_grammar(output: OutputFormat) -> str:
    """A grammar in Lark, or in GBNF, which is turned into Lark. Raises ChatError when it is neither."""
    grammar: str = output.value
    if "::=" in grammar:
        from llguidance.gbnf_to_lark import any_to_lark

        try:
            grammar = any_to_lark(grammar)
        except Exception as error:  # whatever its parser stumbles on
            raise ChatError(f"`{output.param}` is no GBNF grammar: {str(error)[:300]}", output.param) from error
    if (wrong := complaint(grammar)) is not None:
        raise ChatError(f"`{output.param}` is no grammar: {wrong[:500]}", output.param)
    return grammar
