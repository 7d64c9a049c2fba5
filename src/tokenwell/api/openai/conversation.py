"""From OpenAI messages and tools to a Conversation. Knows the dialect's roles and parts, not templates."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from tokenwell.api.errors import ApiError, bad_request
from tokenwell.api.openai.constraints import output_of, tool_choice_of
from tokenwell.api.openai.requests import ChatMessage, ChatRequest, ContentPart, FunctionSchema, Tool
from tokenwell.chat.conversation import Conversation, Message, OutputFormat, Role, ToolCall
from tokenwell.chat.conversation import ToolChoice as Choice

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})

_log = logging.getLogger("tokenwell.api")


def conversation_of(request: ChatRequest) -> Conversation:
    """What the template is given. Raises ApiError 400 for what this version cannot honour."""
    schemas = _schemas(request.tools, request.functions)
    field = "tool_choice" if request.tool_choice is not None else "function_call"
    choice = tool_choice_of(getattr(request, field), [tool["function"]["name"] for tool in schemas], field)
    continued = bool(request.continue_final_message)
    return make_conversation(
        request.messages,
        tools=schemas if choice.mode != "none" else (),
        tool_choice=choice,
        # The older field can carry one call only.
        parallel_tool_calls=request.parallel_tool_calls is not False and request.functions is None,
        output=output_of(request),
        template_arguments=request.chat_template_kwargs,
        add_generation_prompt=request.add_generation_prompt if request.add_generation_prompt is not None else not continued,
        continue_final_message=continued,
    )


def make_conversation(
    messages: list[ChatMessage],
    *,
    tools: tuple[dict[str, Any], ...],
    template_arguments: dict[str, Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    tool_choice: Choice | None = None,
    parallel_tool_calls: bool = True,
    output: OutputFormat | None = None,
) -> Conversation:
    """A conversation from checked messages. Raises ApiError 400 naming the message at fault."""
    if continue_final_message:
        if add_generation_prompt:
            raise bad_request(
                "`continue_final_message` and `add_generation_prompt` cannot both be true.", "continue_final_message"
            )
        if messages[-1].role != "assistant":
            raise bad_request(
                "`continue_final_message` needs the final message to have the role `assistant`.", "continue_final_message"
            )
    return Conversation(
        messages=tuple(_message(message, f"messages[{index}]") for index, message in enumerate(messages)),
        tools=tools,
        tool_choice=tool_choice or Choice(),
        parallel_tool_calls=parallel_tool_calls,
        output=output,
        template_arguments=template_arguments or {},
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )


def tool_schemas(tools: list[Tool] | None) -> tuple[dict[str, Any], ...]:
    """Tools as templates expect them. Types that no chat template knows are skipped, with a line in the log."""
    schemas = []
    for index, tool in enumerate(tools or ()):
        if tool.type != "function":
            _log.warning("a tool of type `%s` was skipped: only functions can be offered to the model", tool.type)
            continue
        if tool.function is None:
            raise bad_request(f"`tools[{index}].function` is missing.", f"tools[{index}].function", "missing_field")
        schemas.append(_as_tool(tool.function))
    return tuple(schemas)


def _schemas(tools: list[Tool] | None, functions: list[FunctionSchema] | None) -> tuple[dict[str, Any], ...]:
    if tools is None and functions is not None:
        return tuple(_as_tool(function) for function in functions)
    return tool_schemas(tools)


def _as_tool(function: FunctionSchema) -> dict[str, Any]:
    return {"type": "function", "function": msgspec.to_builtins(function)}


def _message(message: ChatMessage, path: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise bad_request(f"Unknown role in `{path}.role`; known are {', '.join(_ROLES)}.", f"{path}.role", "invalid_value")
    content = _text(message.content, f"{path}.content")
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


def _text(content: str | list[ContentPart] | None, path: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    # A line break between parts, as vLLM and llama.cpp do: agents send separate blocks, not halves of a sentence.
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: ContentPart, path: str) -> str:
    text = part.refusal if part.type == "refusal" else part.text if part.type in _TEXT_PARTS else None
    if text is not None:
        return text
    raise _no_text(part, path)


def _no_text(part: ContentPart, path: str) -> ApiError:
    if part.type in _TEXT_PARTS or part.type == "refusal":
        return bad_request(f"`{path}` has the type `{part.type}` but no text.", path, "missing_field")
    return bad_request(f"This model takes text only; `{path}` has the type `{part.type[:40]}`.", path, "unsupported_content")


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
