"""Request bodies of the Responses dialect as clients really send them. Shapes and ranges only.

Unknown fields are ignored and null means absent. Items and tools differ by their `type`; they stay as they came here and are
read in `items` and `tools`, where an unknown type can be passed over instead of failing the whole request.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from tokenwell.api.body import invalid_field
from tokenwell.api.parts import Part
from tokenwell.api.wishes import Count, Text, Wishes

T = TypeVar("T")
Json = dict[str, Any]


class Format(msgspec.Struct):
    """What the text must look like; `schema` for the type `json_schema`."""

    type: str
    name: str | None = None
    schema: Any = None
    strict: bool | None = None


class TextOptions(msgspec.Struct):
    """How the answer's text is to be written."""

    format: Format | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct):
    """How much to think, and whether the thought is also told as a summary."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None  # the older name


class Conversing(Wishes, kw_only=True):
    """What a prompt is made from. A Struct has one base, so that sampling fields may stand beside it everywhere."""

    input: str | list[Json]
    model: str | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    chat_template_kwargs: Json | None = None
    conversation: Any = None
    prompt: Any = None


class CountRequest(Conversing, kw_only=True):
    """Body of POST /v1/responses/input_tokens."""


class CreateRequest(Conversing, kw_only=True):
    """Body of POST /v1/responses."""

    n: Annotated[int, Meta(ge=1, le=1)] | None = None  # a response has one answer
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    include: list[str] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    max_tool_calls: Count | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    metadata: dict[str, str] | None = None
    truncation: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


class MessageItem(msgspec.Struct):
    """A message of any role but a tool's."""

    role: str
    content: str | list[Part] | None = None


class CallItem(msgspec.Struct):
    """A call of a function that the assistant made."""

    call_id: Text
    name: Text
    arguments: str | Json | None = None
    namespace: str | None = None


class CustomCallItem(msgspec.Struct):
    """A call of a freeform tool that the assistant made."""

    call_id: Text
    name: Text
    input: str
    namespace: str | None = None


class OutputItem(msgspec.Struct):
    """What a call gave."""

    call_id: Text
    output: str | list[Part]


class ReasoningItem(msgspec.Struct):
    """A thought of the assistant."""

    summary: list[Part] | None = None
    content: list[Part] | None = None
    encrypted_content: str | None = None


class FunctionTool(msgspec.Struct):
    """A function that the model may call. `parameters` is a JSON schema and passed on as it is."""

    name: Text
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class CustomFormat(msgspec.Struct):
    """What the text for a freeform tool must look like."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class CustomTool(msgspec.Struct):
    """A tool that takes text."""

    name: Text
    description: str | None = None
    format: CustomFormat | None = None


class NamespaceTool(msgspec.Struct):
    """Tools under a common name."""

    name: Text
    tools: list[Json]
    description: str | None = None


def convert(value: object, shape: type[T], path: str) -> T:
    """`value`, which the request has at `path`, as `shape`. Raises ApiError 400 naming the field at fault."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        what, _, inner = str(error).partition(" - at `$")
        raise invalid_field(msgspec.ValidationError(f"{what} - at `$.{path}{inner.rstrip('`')}`")) from error
