"""From a chat request to a Conversation: tools, choices and what the text must be. Knows the dialect, not templates."""

from __future__ import annotations

from typing import Any

import msgspec

from tokenwell.api.errors import bad_request
from tokenwell.api.openai.constraints import output_of, tool_choice_of
from tokenwell.api.openai.messages import messages_of
from tokenwell.api.openai.requests import ChatMessage, ChatRequest, FunctionSchema, Tool
from tokenwell.chat.conversation import Conversation, OutputFormat
from tokenwell.chat.conversation import ToolChoice as Choice


def conversation_of(request: ChatRequest) -> tuple[Conversation, list[str]]:
    """What the template is given, and warnings for the client. Raises ApiError 400 for what cannot be honoured."""
    warnings: list[str] = []
    schemas = _schemas(request.tools, request.functions, warnings)
    field = "tool_choice" if request.tool_choice is not None else "function_call"
    choice = tool_choice_of(getattr(request, field), [tool["function"]["name"] for tool in schemas], field)
    continued = bool(request.continue_final_message)
    conversation = make_conversation(
        request.messages,
        warnings,
        tools=schemas if choice.mode != "none" else (),
        tool_fields=_fields(request),
        tool_choice=choice,
        # The older field can carry one call only.
        parallel_tool_calls=request.parallel_tool_calls is not False and request.functions is None,
        output=output_of(request),
        template_arguments=request.chat_template_kwargs,
        add_generation_prompt=request.add_generation_prompt if request.add_generation_prompt is not None else not continued,
        continue_final_message=continued,
    )
    return conversation, warnings


def make_conversation(
    messages: list[ChatMessage],
    warnings: list[str],
    *,
    tools: tuple[dict[str, Any], ...],
    template_arguments: dict[str, Any] | None,
    add_generation_prompt: bool,
    continue_final_message: bool,
    tool_choice: Choice | None = None,
    parallel_tool_calls: bool = True,
    output: OutputFormat | None = None,
    tool_fields: tuple[str, ...] = (),
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
        messages=messages_of(messages, warnings),
        tools=tools,
        tool_fields=tool_fields,
        tool_choice=tool_choice or Choice(),
        parallel_tool_calls=parallel_tool_calls,
        output=output,
        template_arguments=template_arguments or {},
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )


def _fields(request: ChatRequest) -> tuple[str, ...]:
    """Where the schemas are."""
    if request.tools is None:
        return tuple(f"functions[{index}].parameters" for index in range(len(request.functions or ())))
    offered = (index for index, tool in enumerate(request.tools) if tool.type == "function")
    return tuple(f"tools[{index}].function.parameters" for index in offered)


def tool_schemas(tools: list[Tool] | None, warnings: list[str]) -> tuple[dict[str, Any], ...]:
    """Tools as templates expect them. Types that no chat template knows are skipped with a warning."""
    schemas = []
    for index, tool in enumerate(tools or ()):
        if tool.type != "function":
            warnings.append(f"tools[{index}]: type `{tool.type[:40]}` was skipped, only functions can be offered to the model")
            continue
        if tool.function is None:
            raise bad_request(f"`tools[{index}].function` is missing.", f"tools[{index}].function", "missing_field")
        schemas.append(_as_tool(tool.function))
    return tuple(schemas)


def _schemas(tools: list[Tool] | None, functions: list[FunctionSchema] | None, warnings: list[str]) -> tuple[dict[str, Any], ...]:
    if tools is None and functions is not None:
        return tuple(_as_tool(function) for function in functions)
    return tool_schemas(tools, warnings)


def _as_tool(function: FunctionSchema) -> dict[str, Any]:
    return {"type": "function", "function": msgspec.to_builtins(function)}
