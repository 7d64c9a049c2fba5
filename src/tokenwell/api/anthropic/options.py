"""What else a Messages request wishes: tools, thinking, the form of the answer. Knows the dialect's names, no templates."""

from __future__ import annotations

from typing import Any

from tokenwell.api.anthropic.conversation import messages_of
from tokenwell.api.anthropic.requests import MessagesRequest, OutputFormatParam, Tool
from tokenwell.api.errors import bad_request
from tokenwell.chat.conversation import Conversation, OutputFormat, ToolChoice

_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}  # gpt-oss knows three


def conversation_of(request: MessagesRequest) -> tuple[Conversation, list[str]]:
    """The conversation, and in words for the client what of the request is not honoured. Raises ApiError 400."""
    warnings: list[str] = []
    messages, prefilled = messages_of(request, warnings)
    tools = _tools(request.tools or (), warnings)
    choice = _choice(request, [tool["function"]["name"] for tool in tools])
    if request.mcp_servers:
        warnings.append("mcp_servers: this service connects to no MCP servers")
    if request.context_management and request.context_management.get("edits"):
        warnings.append("context_management: nothing is removed from the conversation")
    conversation = Conversation(
        messages=messages,
        tools=() if choice.mode == "none" else tools,
        tool_fields=tuple(f"tools[{index}].input_schema" for index, tool in enumerate(request.tools or ()) if _offered(tool)),
        tool_choice=choice,
        parallel_tool_calls=not (request.tool_choice and request.tool_choice.disable_parallel_tool_use),
        output=_output(request),
        template_arguments=_template_arguments(request, warnings),
        add_generation_prompt=not prefilled,
        continue_final_message=prefilled,
    )
    return conversation, warnings


def _offered(tool: Tool) -> bool:
    return tool.type in (None, "custom")


def _tools(tools: list[Tool] | tuple[()], warnings: list[str]) -> tuple[dict[str, Any], ...]:
    """Tools as templates expect them; Anthropic's own, whose schemas only its models know, are left out."""
    found: dict[str, dict[str, Any]] = {}
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        if not _offered(tool):
            warnings.append(f"{path}: a tool of the type {(tool.type or '')[:60]} was left out, only custom tools can be offered")
            continue
        if not tool.name:
            raise bad_request(f"`{path}.name` is missing.", f"{path}.name", "missing_field")
        if tool.name in found:
            raise bad_request(f"`{path}.name`: tool names must be unique; `{tool.name[:100]}` occurs twice.", f"{path}.name")
        if tool.input_schema is None:
            raise bad_request(f"`{path}.input_schema` is missing.", f"{path}.input_schema", "missing_field")
        if tool.input_schema.get("type", "object") != "object":
            raise bad_request(f"`{path}.input_schema.type` must be `object`.", f"{path}.input_schema.type", "invalid_value")
        described = {} if tool.description is None else {"description": tool.description}
        function = {"name": tool.name, **described, "parameters": tool.input_schema}
        found[tool.name] = {"type": "function", "function": function}
    return tuple(found.values())


def _choice(request: MessagesRequest, names: list[str]) -> ToolChoice:
    """Raises ApiError 400 for a forced call that cannot be made."""
    wanted = request.tool_choice
    if wanted is None or wanted.type == "auto":
        return ToolChoice()
    if wanted.type == "none":
        return ToolChoice("none")
    if wanted.type not in ("any", "tool"):
        raise bad_request("`tool_choice.type` must be one of auto, any, tool and none.", "tool_choice.type", "invalid_value")
    if not names:
        raise bad_request("`tool_choice` asks for a call, but `tools` offers no custom tool.", "tool_choice", "invalid_value")
    if wanted.type == "any":
        return ToolChoice("required")
    if not wanted.name:
        raise bad_request("`tool_choice.name` is missing.", "tool_choice.name", "missing_field")
    if wanted.name not in names:
        raise bad_request(
            f"`tool_choice.name`: there is no custom tool `{wanted.name[:100]}` in `tools`.", "tool_choice.name", "invalid_value"
        )
    return ToolChoice("required", (wanted.name,))


def _output(request: MessagesRequest) -> OutputFormat | None:
    config = request.output_config
    if config is not None and config.format is not None:
        return _format(config.format, "output_config.format")
    return None if request.output_format is None else _format(request.output_format, "output_format")


def _format(wanted: OutputFormatParam, path: str) -> OutputFormat:
    if wanted.type != "json_schema":
        raise bad_request(f"`{path}.type` must be `json_schema`.", f"{path}.type", "invalid_value")
    if not isinstance(wanted.schema, dict | bool):
        raise bad_request(f"`{path}.schema` must be a JSON schema.", f"{path}.schema", "invalid_value")
    return OutputFormat("json_schema", wanted.schema, f"{path}.schema")


def _template_arguments(request: MessagesRequest, warnings: list[str]) -> dict[str, Any]:
    """How the template is told to let the model think. As in Anthropic's API, it does not unless it is asked to."""
    thinking, config = request.thinking, request.output_config
    kind = "disabled" if thinking is None else thinking.type
    if kind not in ("enabled", "adaptive", "disabled"):
        raise bad_request("`thinking.type` must be one of enabled, adaptive and disabled.", "thinking.type", "invalid_value")
    arguments: dict[str, Any] = {"enable_thinking": kind != "disabled"}
    if thinking is not None and thinking.budget_tokens is not None:
        if thinking.budget_tokens < 0:
            raise bad_request("`thinking.budget_tokens` must not be negative.", "thinking.budget_tokens", "invalid_value")
        if kind == "enabled":
            warnings.append("thinking.budget_tokens: thinking is bounded by max_tokens only")
    if config is not None and config.effort is not None:
        if config.effort not in _EFFORTS:
            raise bad_request(
                f"`output_config.effort` must be one of {', '.join(_EFFORTS)}.", "output_config.effort", "invalid_value"
            )
        arguments["reasoning_effort"] = _EFFORTS[config.effort]
    return arguments | (request.chat_template_kwargs or {})
