"""Messages of the Chat dialect as messages of a conversation: roles, parts, calls, and that results belong to calls.

Knows nothing of tools that are offered, and nothing of templates.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tokenwell.api.errors import bad_request
from tokenwell.api.openai.requests import ChatMessage
from tokenwell.api.parts import text_of
from tokenwell.chat.conversation import Message, Role, ToolCall

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def messages_of(messages: list[ChatMessage], warnings: list[str]) -> tuple[Message, ...]:
    """The messages. Raises ApiError 400 naming the message at fault."""
    read = tuple(_message(message, f"messages[{index}]", warnings) for index, message in enumerate(messages))
    _check_results(read)
    return read


def _check_results(messages: tuple[Message, ...]) -> None:
    """Every result answers one call that was made before, and no call is answered twice.

    A call may stay without a result: agents send such histories after an abort. A result without an id answers the first call
    that has none yet.
    """
    open_: list[str] = []  # calls without a result
    known: set[str] = set()
    for index, message in enumerate(messages):
        ids = [call.id for call in message.tool_calls]
        if len(set(ids)) < len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise bad_request(f"Two tool calls have the id `{twice[:80]}`.", f"messages[{index}].tool_calls", "invalid_value")
        open_ = [*(id for id in open_ if id not in ids), *ids]
        known.update(ids)
        if message.role != "tool":
            continue
        id, path = message.tool_call_id, f"messages[{index}].tool_call_id"
        if id is None and not open_:
            raise bad_request("A tool message must follow the assistant message whose call it answers.", path, "invalid_value")
        if id is not None and id not in known:
            raise bad_request(f"No tool call before this message has the id `{id[:80]}`.", path, "invalid_value")
        if id is not None and id not in open_:
            raise bad_request(f"The tool call `{id[:80]}` has a result already.", path, "invalid_value")
        open_.remove(open_[0] if id is None else id)


def _message(message: ChatMessage, path: str, warnings: list[str]) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise bad_request(f"Unknown role in `{path}.role`; known are {', '.join(_ROLES)}.", f"{path}.role", "invalid_value")
    content = text_of(message.content, f"{path}.content", warnings if role == "tool" else None)
    if role == "assistant":
        content = content or message.refusal or ""
    assistant = role == "assistant"
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    return Message(
        role=role,
        content=content,
        reasoning=reasoning if assistant else None,
        tool_calls=_calls(message) if assistant else (),
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def _calls(message: ChatMessage) -> tuple[ToolCall, ...]:
    calls = [(call.id, call.function) for call in message.tool_calls or ()]
    if message.function_call is not None:
        calls.append((None, message.function_call))
    return tuple(
        ToolCall(id=id_ or f"call_{index}", name=function.name, arguments=_arguments(function.arguments))
        for index, (id_, function) in enumerate(calls)
    )


def _arguments(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or "{}"
