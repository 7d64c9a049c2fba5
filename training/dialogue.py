"""One dialogue of the training data, in the shape of OpenAI's chat requests."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Dialogue:
    """A whole conversation and the tools that were declared for it.

    messages: system (or none), user, assistant and tool messages. An assistant's message has content or tool_calls; the
    arguments of a call are a dict here, not JSON text. A tool's message has tool_call_id, name and content (text).
    tools: declarations ({"type": "function", "function": {...}}). kind: the maker's name in generate.KINDS.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    language: str = "en"
    kind: str = ""


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def calls(messages: list[dict[str, Any]], wanted: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The assistant's message with these calls (name, arguments); ids count on from the calls in `messages`."""
    done = sum(len(message.get("tool_calls", ())) for message in messages)
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": f"call_{done + place}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for place, (name, arguments) in enumerate(wanted, 1)
        ],
    }


def results(message: dict[str, Any], contents: list[str]) -> list[dict[str, Any]]:
    """The tools' messages that answer the calls of an assistant's message, in their order."""
    return [
        {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": content}
        for call, content in zip(message["tool_calls"], contents, strict=True)
    ]
