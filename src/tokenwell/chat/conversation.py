"""A conversation without any dialect: what every API translates into, and what templates are rendered from."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool"]


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the assistant made. `arguments` is the JSON text as the client sent it."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True):
    """One message. Text parts are already joined; other media arrive with the issue that supports them."""

    role: Role
    content: str = ""
    reasoning: str | None = None  # past thinking, replayed exactly as generated
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Conversation(msgspec.Struct, frozen=True):
    """What is rendered into a prompt."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()  # as {"type": "function", "function": {name, description, parameters}}
    template_arguments: dict[str, Any] = {}  # extra template variables (chat_template_kwargs)
    add_generation_prompt: bool = True
    continue_final_message: bool = False  # the last assistant message is left open and continued


class Prompt(msgspec.Struct, frozen=True):
    """A rendered conversation."""

    text: str
    tokens: list[int]
    continues: bool = False  # the answer goes on inside the last message instead of starting a new one


class ChatError(Exception):
    """The conversation cannot be rendered; the message may be shown to the client (a 400, never a 500)."""
