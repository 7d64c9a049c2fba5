"""From a request of the dialect to a Conversation: instructions, history, input, tools and what the answer must look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenwell.api.errors import ApiError, bad_request
from tokenwell.api.responses.answer import response_of_item
from tokenwell.api.responses.items import Reading, type_of
from tokenwell.api.responses.requests import Conversing, Json
from tokenwell.api.responses.store import ResponseStore
from tokenwell.api.responses.toolbox import Toolbox, choice_of, toolbox
from tokenwell.chat.conversation import Conversation, Message, OutputFormat

_MAX_WARNINGS = 8  # a header is short, and agents repeat the same item many times
_NO_THINKING = ("none", "minimal")


@dataclass(frozen=True)
class Understood:
    """A request in the service's own words."""

    conversation: Conversation
    box: Toolbox
    history: list[Json]  # items of the responses that this one continues
    given: list[Json]  # the request's own items, references resolved
    warnings: list[str]


async def understand(wanted: Conversing, store: ResponseStore) -> Understood:
    """Read the request. Raises ApiError 400 naming the field at fault."""
    _refuse_unsupported(wanted)
    box = toolbox(wanted.tools)
    warnings = list(box.warnings)
    history = await _history(wanted.previous_response_id, store)
    given = await _resolved(wanted.input, store)
    reading = Reading(box, warnings)
    for item in history:
        reading.add(item, "previous_response_id")
    for index, item in enumerate(given):
        reading.add(item, f"input[{index}]" if isinstance(wanted.input, list) else "input")
    messages = reading.finish()
    if not messages:
        raise bad_request("`input` holds nothing that can be shown to the model.", "input", "invalid_value")
    if wanted.instructions:
        messages = (Message(role="system", content=wanted.instructions), *messages)
    choice = choice_of(wanted.tool_choice, box)
    conversation = Conversation(
        messages=messages,
        tools=() if choice.mode == "none" else tuple(box.schemas),
        tool_fields=tuple(box.fields),
        tool_choice=choice,
        parallel_tool_calls=wanted.parallel_tool_calls is not False,
        output=_output(wanted),
        template_arguments=_template_arguments(wanted),
    )
    return Understood(conversation, box, history, given, _shortened(warnings))


def not_found(id: str) -> ApiError:
    """The answer for a response that is not, or no longer, stored."""
    return ApiError(404, f"Response with id '{id[:80]}' not found.", param="response_id", code="response_not_found")


def _refuse_unsupported(wanted: Conversing) -> None:
    if wanted.conversation is not None:
        raise bad_request(
            "Conversation objects are not kept here; continue a response with `previous_response_id`, or send its items.",
            "conversation",
            "unsupported_parameter",
        )
    if wanted.prompt is not None:
        raise bad_request(
            "Prompt templates are not kept here; send `instructions` and `input`.", "prompt", "unsupported_parameter"
        )


async def _history(id: str | None, store: ResponseStore) -> list[Json]:
    if id is None:
        return []
    stored = await store.get(id)
    if stored is None:
        raise bad_request(
            f"Previous response with id '{id[:80]}' not found.", "previous_response_id", "previous_response_not_found"
        )
    return stored.history()


async def _resolved(given: str | list[Json], store: ResponseStore) -> list[Json]:
    """The items, those that are only referred to taken from the store."""
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    outputs: dict[str, dict[Any, Json]] = {}  # of the responses that were looked up: item by id
    items: list[Json] = []
    for index, item in enumerate(given):
        path = f"input[{index}]"
        if type_of(item, path) != "item_reference":
            items.append(item)
            continue
        items.append(await _referred(item.get("id"), path, store, outputs))
    return items


async def _referred(id: Any, path: str, store: ResponseStore, outputs: dict[str, dict[Any, Json]]) -> Json:
    if not isinstance(id, str):
        raise bad_request(f"`{path}.id` must be the id of an item.", f"{path}.id", "missing_field")
    response = response_of_item(id)
    if response is not None and response not in outputs:
        stored = await store.get(response)
        outputs[response] = {} if stored is None else {item.get("id"): item for item in stored.history()}
    found = None if response is None else outputs[response].get(id)
    if found is None:
        raise bad_request(f"Item with id '{id[:80]}' not found.", path, "item_not_found")
    return found


def _output(wanted: Conversing) -> OutputFormat | None:
    format_ = None if wanted.text is None else wanted.text.format
    if format_ is None or format_.type == "text":
        return None
    if format_.type == "json_object":
        return OutputFormat("json_object", param="text.format")
    if format_.type != "json_schema":
        raise bad_request(
            f"Unknown format `{format_.type[:40]}`; use `text`, `json_object` or `json_schema`.",
            "text.format.type",
            "unsupported_value",
        )
    if not isinstance(format_.schema, dict | bool):
        raise bad_request("`text.format.schema` must be a JSON schema.", "text.format.schema", "invalid_value")
    return OutputFormat("json_schema", format_.schema, "text.format")


def _template_arguments(wanted: Conversing) -> Json:
    """Reasoning effort under the names that templates know; what the client tells the template itself wins."""
    arguments: Json = {}
    effort = None if wanted.reasoning is None else wanted.reasoning.effort
    if effort is not None:
        arguments["reasoning_effort"] = effort
        if effort in _NO_THINKING:
            arguments["enable_thinking"] = False
    return arguments | (wanted.chat_template_kwargs or {})


def _shortened(warnings: list[str]) -> list[str]:
    left = len(warnings) - _MAX_WARNINGS
    return warnings if left <= 0 else [*warnings[:_MAX_WARNINGS], f"{left} more were skipped"]
