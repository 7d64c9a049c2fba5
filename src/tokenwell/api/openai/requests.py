"""Request bodies of the OpenAI dialect as clients really send them, vLLM's additions included. Shapes and ranges only.

Unknown fields are ignored, null means absent, and every range that needs no further knowledge is checked here, so that an
error names the field. What fields mean together is decided in `sampling`, `conversation`, `chat` and `completions`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tokenwell.api.parts import Part
from tokenwell.api.wishes import MAX_CHOICES, Count, Text, TokenId, Wishes

TopLogprobs = Annotated[int, Meta(ge=0, le=20)]


class StreamOptions(msgspec.Struct):
    """What a stream tells beside its text. The final usage chunk is always sent."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationFields(Wishes, kw_only=True):
    """Fields that chat and text completions share."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    # What the text is held to; see `constraints`.
    response_format: ResponseFormat | None = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    structured_outputs: Any = None


class ResponseFormat(msgspec.Struct):
    """`text`, or a constraint. `schema` beside `json_object` is what some servers take."""

    type: str
    json_schema: JsonSchema | None = None
    schema: dict[str, Any] | bool | None = None


class JsonSchema(msgspec.Struct):
    """A named schema. It is enforced whether it is called strict or not."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None


class FunctionCall(msgspec.Struct):
    """Name and arguments of a call; some clients send the arguments as an object instead of its text."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCallMessage(msgspec.Struct):
    """A call in an assistant message."""

    function: FunctionCall
    id: str | None = None
    type: str | None = None


class ChatMessage(msgspec.Struct, kw_only=True):
    """A message of any role."""

    role: str
    content: str | list[Part] | None = None
    refusal: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallMessage] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None


class FunctionSchema(msgspec.Struct, omit_defaults=True):
    """A function that the model may call. `parameters` is a JSON schema and passed on as it is."""

    name: Text
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool. Types other than `function` are skipped."""

    type: str
    function: FunctionSchema | None = None


class NamedTool(msgspec.Struct):
    """A tool by its name, in the shape of Chat or of Responses."""

    type: str | None = None
    name: str | None = None
    function: FunctionCall | None = None


class AllowedTools(msgspec.Struct):
    """The tools that may be called, and whether one must be."""

    mode: str | None = None
    tools: list[NamedTool] | None = None


class ToolChoice(msgspec.Struct):
    """A forced tool, or a choice of allowed ones."""

    type: str | None = None
    name: str | None = None
    function: FunctionCall | None = None
    allowed_tools: AllowedTools | None = None


class ChatRequest(GenerationFields, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    tools: list[Tool] | None = None
    functions: list[FunctionSchema] | None = None
    tool_choice: str | ToolChoice | None = None
    function_call: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    max_completion_tokens: Count | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(GenerationFields, kw_only=True):
    """Body of POST /v1/completions. `prompt` is told apart in `completions`: msgspec allows one list type in a union."""

    prompt: str | list[str | int | list[TokenId]]
    suffix: str | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: TopLogprobs | None = None
    add_special_tokens: bool | None = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Body of POST /tokenize: a `prompt` or a conversation."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Body of POST /detokenize."""

    tokens: list[TokenId]
    model: str | None = None
