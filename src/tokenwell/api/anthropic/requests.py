"""What Anthropic clients send: wire shapes of Messages and count_tokens. Unknown fields are ignored, null means absent.

Contents stay untyped here, because blocks differ by their `type`: conversation.py reads them and names the one at fault.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tokenwell.api.wishes import Text, Wishes


class Block(msgspec.Struct):
    """A content block of any type, with the fields of all types that are read."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    tool_name: str | None = None
    content: Any = None
    is_error: bool | None = None
    source: Any = None
    title: str | None = None
    context: str | None = None


class InputMessage(msgspec.Struct):
    """A message of the conversation."""

    role: str
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool. Without `type`, or with `custom`, the client brings the schema; others are Anthropic's own."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoiceParam(msgspec.Struct):
    """Whether tools may or must be called."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingParam(msgspec.Struct):
    """Whether the model may think first, and whether the client wants to see it."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormatParam(msgspec.Struct):
    """The form of the answer's text."""

    type: str
    schema: Any = None


class OutputConfig(msgspec.Struct):
    """How much work an answer is worth, and its form."""

    effort: str | None = None
    format: OutputFormatParam | None = None


class MessagesRequest(Wishes, kw_only=True):
    """POST /v1/messages; count_tokens sends a part of it. Sampling fields beyond the API's are those of the other dialects."""

    messages: Annotated[list[InputMessage], Meta(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    system: str | list[Block] | None = None
    stream: bool | None = None
    stop_sequences: Annotated[list[Text], Meta(max_length=64)] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormatParam | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    mcp_servers: list[Any] | None = None
    context_management: dict[str, Any] | None = None
