"""What a request wants its answer held to: calls of tools, and the format of its text. One constraint of the text at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tokenwell.api.errors import bad_request
from tokenwell.api.openai.requests import AllowedTools, GenerationFields, NamedTool, ToolChoice
from tokenwell.chat.conversation import OutputFormat
from tokenwell.chat.conversation import ToolChoice as Choice

MAX_TEXT = 2**20  # characters of a grammar or a regular expression
MAX_CHOICES = 10_000

# Fields of `structured_outputs` that say how, not what: they change nothing here.
_MANNERS = frozenset(
    {
        "backend",
        "_backend",
        "_backend_was_auto",
        "disable_fallback",
        "disable_any_whitespace",
        "disable_additional_properties",
        "whitespace_pattern",
    }
)


def check_together(request: GenerationFields) -> None:
    """Raise ApiError 400 for fields that cannot be given together."""
    if request.prompt_logprobs is not None and request.stream:
        raise bad_request("`prompt_logprobs` cannot be streamed.", "prompt_logprobs", "invalid_value")


def output_of(request: GenerationFields) -> OutputFormat | None:
    """What the text must look like; None: free. Raises ApiError 400 naming the field."""
    found = [_response_format(request), *_guided(request), *_structured(request.structured_outputs)]
    given = [each for each in found if each is not None]
    if len(given) > 1:
        names = ", ".join(f"`{each.param}`" for each in given)
        raise bad_request(f"An answer can have one constraint at a time; {names} are given.", given[1].param, "invalid_value")
    return given[0] if given else None


def _response_format(request: GenerationFields) -> OutputFormat | None:
    wanted, param = request.response_format, "response_format"
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        if wanted.schema is None:
            return OutputFormat("json_object", param=param)
        return OutputFormat("json_schema", wanted.schema, f"{param}.schema")
    if wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.schema is None:
            place = f"{param}.json_schema" if wanted.json_schema is None else f"{param}.json_schema.schema"
            raise bad_request(f"`{place}` is missing.", place, "missing_field")
        return OutputFormat("json_schema", wanted.json_schema.schema, f"{param}.json_schema.schema")
    raise bad_request(
        f"Unknown response format `{wanted.type[:40]}`; use `text`, `json_object` or `json_schema`.",
        f"{param}.type",
        "unsupported_value",
    )


def _guided(request: GenerationFields) -> list[OutputFormat | None]:
    """vLLM's older fields."""
    return [
        _json(request.guided_json, "guided_json"),
        _text("regex")(request.guided_regex, "guided_regex"),
        _choice(request.guided_choice, "guided_choice"),
        _text("grammar")(request.guided_grammar, "guided_grammar"),
    ]


def _structured(given: Any) -> list[OutputFormat | None]:
    """vLLM's newer field, which holds one of several kinds."""
    name = "structured_outputs"
    if given is None:
        return []
    if not isinstance(given, dict):
        raise bad_request(f"`{name}` must be an object.", name, "invalid_value")
    if given.get("structural_tag") is not None:
        raise bad_request(
            f"`{name}.structural_tag` is not supported; use `tools`, or `{name}.grammar`.",
            f"{name}.structural_tag",
            "unsupported_parameter",
        )
    if unknown := [key for key in given if key not in _KINDS and key not in _MANNERS and key != "structural_tag"]:
        known = ", ".join(f"`{key}`" for key in _KINDS)
        raise bad_request(f"`{name}.{unknown[0][:40]}` is not known; use one of {known}.", name, "unsupported_parameter")
    found = [read(given.get(key), f"{name}.{key}") for key, read in _KINDS.items()]
    if not any(found):
        raise bad_request(f"`{name}` names no constraint.", name, "invalid_value")
    return found


def _json(value: Any, param: str) -> OutputFormat | None:
    """A schema, or its JSON text."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise bad_request(f"`{param}` is a text that is no JSON: {error}", param, "invalid_value") from error
    return None if value is None else OutputFormat("json_schema", value, param)


def _json_object(value: Any, param: str) -> OutputFormat | None:
    if value is None or isinstance(value, bool):
        return OutputFormat("json_object", param=param) if value else None
    raise bad_request(f"`{param}` must be true or false.", param, "invalid_value")


def _choice(value: Any, param: str) -> OutputFormat | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
        raise bad_request(f"`{param}` must be a list of texts that are not empty.", param, "invalid_value")
    if len(value) > MAX_CHOICES:
        raise bad_request(f"`{param}` has more than {MAX_CHOICES} entries.", param, "invalid_value")
    return OutputFormat("choice", value, param)


def _text(kind: Any) -> Callable[[Any, str], OutputFormat | None]:
    def read(value: Any, param: str) -> OutputFormat | None:
        if value is None:
            return None
        if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
            raise bad_request(f"`{param}` must be a text of 1 to {MAX_TEXT} characters.", param, "invalid_value")
        return OutputFormat(kind, value, param)

    return read


_KINDS: dict[str, Callable[[Any, str], OutputFormat | None]] = {
    "json": _json,
    "regex": _text("regex"),
    "choice": _choice,
    "grammar": _text("grammar"),
    "json_object": _json_object,
}


# ---------------------------------------------------------------- tools


def tool_choice_of(choice: str | ToolChoice | None, names: list[str], param: str) -> Choice:
    """Whether tools with these names may or must be called. Raises ApiError 400 naming the field."""
    if choice is None or choice == "auto":
        return Choice()
    if choice == "none":
        return Choice("none")
    if isinstance(choice, str):
        if choice != "required":
            raise bad_request(f"`{param}` must be `auto`, `none`, `required` or name a tool.", param, "invalid_value")
        if not names:
            raise bad_request(f"`{param}` is `required`, but there are no tools.", param, "invalid_value")
        return Choice("required")
    if choice.type == "allowed_tools" or choice.allowed_tools is not None:
        return _allowed(choice.allowed_tools, names, f"{param}.allowed_tools")
    if choice.type in ("auto", "none", "required") and choice.function is None and choice.name is None:
        return tool_choice_of(choice.type, names, param)
    if choice.type not in (None, "function"):
        raise bad_request(
            f"`{param}.type` must be `function` or `allowed_tools`, not `{choice.type[:40]}`.",
            f"{param}.type",
            "unsupported_value",
        )
    return Choice("required", (_name(NamedTool("function", choice.name, choice.function), names, param),))


def _allowed(allowed: AllowedTools | None, names: list[str], param: str) -> Choice:
    if allowed is None or not allowed.tools:
        raise bad_request(f"`{param}.tools` must list at least one tool.", f"{param}.tools", "missing_field")
    chosen = tuple(_name(tool, names, f"{param}.tools[{index}]") for index, tool in enumerate(allowed.tools))
    if allowed.mode in (None, "auto"):
        return Choice("auto", chosen)
    if allowed.mode == "required":
        return Choice("required", chosen)
    raise bad_request(f"`{param}.mode` must be `auto` or `required`.", f"{param}.mode", "invalid_value")


def _name(tool: NamedTool, names: list[str], param: str) -> str:
    name = tool.function.name if tool.function is not None else tool.name
    if not name:
        raise bad_request(f"`{param}` names no function.", param, "missing_field")
    if name not in names:
        raise bad_request(f"`{param}` names `{name[:100]}`, which is none of the request's tools.", param, "invalid_value")
    return name
