"""One spelling for conversations that mean the same, so that clients which re-spell their history still find it in the cache.

Tools keep their order (no client is known to shuffle them, and a tool that is added at the end should change nothing before
it); inside a tool every object gets a fixed order of keys. Calls are renumbered, because some templates print their ids and
some clients change them. Knows no template and no tokens; arguments are read in `turns`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from tokenwell.chat.conversation import Conversation, Message, ToolCall
from tokenwell.chat.nonces import without_hints, without_nonces

# As schemas are mostly written, and so as models have read them; everything else follows by name.
_ORDER = (
    "name",
    "type",
    "title",
    "description",
    "enum",
    "const",
    "function",
    "parameters",
    "properties",
    "required",
    "items",
    "anyOf",
    "oneOf",
    "allOf",
)
_RANK = {key: place for place, key in enumerate(_ORDER)}
_NAMED_SCHEMAS = frozenset({"patternProperties", "$defs", "definitions", "dependentSchemas"})
_DATA = frozenset({"enum", "const", "default", "examples", "example"})
_DEPTH = 64
# Ids of Mistral's own shape, which its templates print: whoever sends these does not change them. Other services' ids, which
# some clients strip of their underscores, may come to look alike but for how they begin.
_PRINTED_AS_IT_IS = re.compile(r"(?!call|toolu|fc)[A-Za-z0-9]{9}")


def canonical(conversation: Conversation, keep_nonces: Collection[str] = ()) -> Conversation:
    """The same conversation in its one spelling. `keep_nonces`: rules of `nonces` that are not applied."""
    messages = renumbered(without_nonces(conversation.messages, keep_nonces))
    # A request of nothing but nonces still has its messages.
    return msgspec.structs.replace(
        conversation,
        messages=messages or conversation.messages,
        tools=tuple(canonical_tool(without_hints(tool, keep_nonces)) for tool in conversation.tools),
    )


def canonical_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool with the keys of all its objects in a fixed order."""
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return _sorted(tool, _DEPTH)
    # type before function, name before description: the outer objects are no schemas.
    inner = {key: function[key] for key in ("name", "description", "parameters") if key in function}
    inner |= {key: _data(function[key], _DEPTH) for key in sorted(function.keys() - inner.keys())}
    if "parameters" in inner:
        inner["parameters"] = _schema(inner["parameters"], _DEPTH)
    outer = {key: _data(tool[key], _DEPTH) for key in sorted(tool.keys() - {"type", "function"})}
    return {**({"type": tool["type"]} if "type" in tool else {}), "function": inner, **outer}


def _schema(value: Any, depth: int) -> Any:
    if depth == 0:
        return value
    if isinstance(value, list):
        return [_schema(item, depth - 1) for item in value]
    if not isinstance(value, Mapping):
        return value
    result: dict[str, Any] = {}
    for key in sorted(value, key=lambda key: (_RANK.get(key, len(_ORDER)), key)):
        part = value[key]
        if key == "properties" and isinstance(part, Mapping):
            result[key] = {name: _schema(part[name], depth - 1) for name in _property_order(part, value.get("required"))}
        elif key in _NAMED_SCHEMAS and isinstance(part, Mapping):
            result[key] = {name: _schema(part[name], depth - 1) for name in sorted(part)}
        else:
            result[key] = _data(part, depth - 1) if key in _DATA else _schema(part, depth - 1)
    return result


def _property_order(properties: Mapping[str, Any], required: object) -> list[str]:
    """The required ones as `required` lists them, then the others by name.

    `required` is a list, which no client reorders: it keeps what the author put first (a path before a file's text), and
    the grammar makes the model write arguments in this order.
    """
    listed = [name for name in required if isinstance(name, str) and name in properties] if isinstance(required, list) else []
    first = list(dict.fromkeys(listed))
    return first + sorted(properties.keys() - set(first))


def _sorted(value: Mapping[str, Any], depth: int) -> dict[str, Any]:
    return {key: _data(value[key], depth - 1) for key in sorted(value, key=lambda key: (_RANK.get(key, len(_ORDER)), key))}


def _data(value: Any, depth: int) -> Any:
    """Data inside a schema, such as a default: objects by key."""
    if depth == 0:
        return value
    if isinstance(value, Mapping):
        return {key: _data(value[key], depth - 1) for key in sorted(value)}
    return [_data(item, depth - 1) for item in value] if isinstance(value, list) else value


def renumbered(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages with calls named by their function and place in the conversation (Kimi's way; other models do not care).

    A result belongs to the latest call with its id that has no result yet, without an id to the first call without one.
    """
    result: list[Message] = []
    known: dict[str, list[str]] = {}  # the client's id -> our ids of the calls, oldest first, answered ones at the end
    unanswered: list[str] = []  # of the last message with calls
    count = strays = 0
    for message in messages:
        if message.tool_calls:
            calls = []
            known_here: dict[str, list[str]] = {}
            for call in message.tool_calls:
                own = call.id if _PRINTED_AS_IT_IS.fullmatch(call.id) else f"functions.{call.name}:{count}"
                count += 1
                calls.append(ToolCall(own, call.name, call.arguments))
                known_here.setdefault(call.id, []).append(own)
            known |= known_here
            unanswered = [call.id for call in calls]
            message = msgspec.structs.replace(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            own_id: str | None
            if message.tool_call_id is None:
                own_id = unanswered[0] if unanswered else None
            elif candidates := known.get(message.tool_call_id):
                own_id = candidates[0]
                candidates.append(candidates.pop(0))
            else:
                kept = _PRINTED_AS_IT_IS.fullmatch(message.tool_call_id)
                own_id = message.tool_call_id if kept else f"functions.unknown:{strays}"
                strays += 1
            unanswered = [id for id in unanswered if id != own_id]
            message = msgspec.structs.replace(message, tool_call_id=own_id)
        result.append(message)
    return tuple(result)
