"""A dialogue as the text that the checkpoint's chat template prints, cut where learning starts and ends.

The template (`chat_template.jinja` beside this file) is what counts; this is the same in Python, because a trainer renders
thousands of dialogues a second and must know which part the assistant wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from training.dialogue import Dialogue

STOP_OF_CALLS = "<|tool_response>"  # written by the model behind its calls: it waits for their results
STOP_OF_TEXT = "<turn|>"
QUOTE = '<|"|>'


def render(dialogue: Dialogue) -> list[tuple[str, bool]]:
    """Pieces of text in order; True: the assistant wrote it, and it is learned.

    Joined they are the template's text, but for the stop token behind calls that nothing follows, which is there to learn.
    """
    return list(_pieces(dialogue))


def prompt(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """What the model is given before it answers: the template's text with a generation prompt."""
    pieces = [text for text, _ in _pieces(Dialogue(messages, tools, "en", ""))]
    if messages[-1]["role"] == "assistant":
        return "".join(pieces)
    return "".join(pieces) + ("" if messages[-1]["role"] == "tool" else "<|turn>model\n")


def _pieces(dialogue: Dialogue) -> Iterator[tuple[str, bool]]:
    messages = dialogue.messages
    leading = messages[0]["role"] in ("system", "developer")
    head = ["<bos>"]
    if dialogue.tools or leading:
        head += ["<|turn>system\n", _text(messages[0]) if leading else ""]
        head += [_declaration(tool["function"]) for tool in dialogue.tools]
        head.append("<turn|>\n")
    given = "".join(head)  # what is not learned is gathered until the assistant writes
    is_open = False
    names: dict[str, str] = {}
    for message in messages[1:] if leading else messages:
        role = message["role"]
        if role == "assistant":
            yield given + ("" if is_open else "<|turn>model\n"), False
            calls = message.get("tool_calls") or []
            names |= {call["id"]: call["function"]["name"] for call in calls}
            is_open = bool(calls)
            yield _text(message) + "".join(map(_call, calls)) + (STOP_OF_CALLS if is_open else STOP_OF_TEXT), True
            given = "" if is_open else "\n"
        elif role == "tool":
            name = message.get("name") or names.get(message["tool_call_id"], "unknown")
            result = f"{STOP_OF_CALLS}response:{name}{{value:{QUOTE}{_text(message)}{QUOTE}}}<tool_response|>"
            # The first result starts with the stop token that the calls ended with.
            given += result if given or not is_open else result.removeprefix(STOP_OF_CALLS)
            is_open = True
        else:
            given += "<turn|>\n" if is_open else ""
            is_open = False
            given += f"<|turn>{'system' if role == 'developer' else role}\n{_text(message)}<turn|>\n"
    yield given, False


def _text(message: Mapping[str, Any]) -> str:
    return (message.get("content") or "").strip()


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    return f"<|tool_call>call:{function['name']}{_written(function['arguments'])}<tool_call|>"


def _by_name(item: tuple[str, Any]) -> str:
    return item[0].lower()


def _written(value: Any) -> str:
    if isinstance(value, str):
        return f"{QUOTE}{value}{QUOTE}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in sorted(value.items(), key=_by_name)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_written, value)) + "]"
    return str(value)


def _declaration(function: Mapping[str, Any]) -> str:
    parameters = function.get("parameters") or {}
    shown = f",parameters:{_schema(parameters)}" if parameters.get("properties") else ""
    described = (function.get("description") or "").strip()
    return f"<|tool>declaration:{function['name']}{{description:{QUOTE}{described}{QUOTE}{shown}}}<tool|>"


def _schema(given: Mapping[str, Any]) -> str:
    options = given.get("anyOf") or given.get("oneOf") or []
    node = next((option for option in options if option.get("type") != "null"), given)
    kind = node.get("type") or "string"
    if not isinstance(kind, str):
        kind = next((each for each in kind if each != "null"), "string")
    parts = []
    if described := given.get("description") or node.get("description"):
        parts.append(f"description:{QUOTE}{described}{QUOTE}")
    if node.get("enum"):
        parts.append(f"enum:{_written(node['enum'])}")
    if isinstance(node.get("items"), Mapping):
        parts.append(f"items:{_schema(node['items'])}")
    if properties := node.get("properties"):
        inner = ",".join(f"{key}:{_schema(value)}" for key, value in sorted(properties.items(), key=_by_name))
        parts.append(f"properties:{{{inner}}}")
    if node.get("required"):
        parts.append(f"required:{_written(node['required'])}")
    parts.append(f"type:{QUOTE}{kind.upper()}{QUOTE}")
    return "{" + ",".join(parts) + "}"
