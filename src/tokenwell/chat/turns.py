"""Messages of a conversation in the shape that public templates read, before any repair. Knows no template.

Always done, because it never takes anything away: arguments of tool calls become objects when their text is a JSON object,
reasoning is given under each name that templates read, and a tool result says which function it came from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenwell.chat.conversation import Message, ToolCall
from tokenwell.chat.template import Turn

# Qwen, GLM and DeepSeek read the first, Gemma 4 the second, gpt-oss the third.
REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """One new dict a message; nothing is shared with the caller."""
    turns = []
    names: dict[str, str] = {}  # of the functions called so far, by call id
    unanswered: list[ToolCall] = []  # of the last assistant message
    for message in messages:
        turn: Turn = {"role": message.role, "content": message.content}
        if message.name is not None:
            turn["name"] = message.name
        if message.role == "assistant":
            _add_assistant_fields(turn, message)
            names |= {call.id: call.name for call in message.tool_calls}
            unanswered = list(message.tool_calls)
        if message.role == "tool":
            _add_result_fields(turn, message, names, unanswered)
        turns.append(turn)
    return turns


def _add_assistant_fields(turn: Turn, message: Message) -> None:
    if message.reasoning:
        turn |= dict.fromkeys(REASONING_NAMES, message.reasoning)
    # Templates test whether the key is there, so it is absent rather than empty.
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments_of(call.arguments)}}
            for call in message.tool_calls
        ]


def _add_result_fields(turn: Turn, message: Message, names: dict[str, str], unanswered: list[ToolCall]) -> None:
    """A result without an id answers the first call that has no answer yet."""
    id = message.tool_call_id
    if id is None and unanswered:
        id = unanswered[0].id
    unanswered[:] = [call for call in unanswered if call.id != id]
    if id is not None:
        turn["tool_call_id"] = id
        if id in names:
            turn.setdefault("name", names[id])


def arguments_of(text: str) -> dict[str, Any] | str:
    """The object that a JSON text holds; no text is no arguments; other JSON in one spelling; anything else as it is."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else json.dumps(value, ensure_ascii=False)


def transcript(turns: Sequence[Turn], add_generation_prompt: bool) -> str:
    """A plain rendering for models without a template: `role: content`, a blank line between, `assistant:` to go on."""
    lines = [f"{turn['role']}: {turn['content']}" for turn in turns]
    return "\n\n".join([*lines, "assistant:"] if add_generation_prompt else lines)
