"""What a request asks the scripted engine to do: the prompt is read back and the marks in it become steps.

Marks are `[[say TEXT]]`, `[[think TEXT]]` and `[[call NAME {json}]]`, in user messages alone. Knows no tokens and no chat format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

GREETING = "This is a scripted answer."  # to a request without marks
DONE = "Done."  # to a tool's result, when the script says nothing

_MARK = re.compile(r"\[\[(say|think|call)\s")
_NAME = re.compile(r"[^\s\]{]+")
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell halves of pairs, which no tokenizer can write
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class Step:
    """One thing to write. `text`: what is said or thought, or the name of the tool that is called with `arguments`."""

    kind: Literal["say", "think", "call"]
    text: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """What the template printed: the schemas of the tools' arguments by name, and the messages, oldest first."""

    tools: Mapping[str, Any]
    messages: tuple[dict[str, Any], ...]


def read(prompt: str) -> Request:
    """A rendered prompt. Text that the template did not print, as of a raw completion, is one user message."""
    first, *lines = prompt.split("\n")
    try:
        functions = [tool["function"] for tool in json.loads(first)["tools"]]
        tools = {str(function["name"]): function.get("parameters") for function in functions}
        messages = tuple(message for line in lines if (message := _message(line)) is not None)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Request({}, ({"role": "user", "content": prompt},))
    return Request(tools, messages)


def _message(line: str) -> dict[str, Any] | None:
    """A message; None for the end of the prompt and for a last message that the model shall go on with."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message["role"], str) else None


def due(request: Request, single: bool) -> list[Step]:
    """The steps of this answer. `single`: the chat format has one call an answer, so further ones follow the first's result.

    A script is what the user messages behind the last assistant message say. It ends with its last call; what it says behind
    that is said once the results are there. Messages without marks that an agent puts behind a result change nothing.
    """
    messages = request.messages
    last = _last(messages, "assistant")
    answered = any(message["role"] == "tool" for message in messages[last + 1 :])
    fresh = _steps(messages[last + 1 :])
    if not answered:
        return _part(fresh, 0, single) if fresh else [Step("say", GREETING)]
    start = _turn_start(messages)
    script = _steps(messages[start:last])
    if fresh and fresh != script:  # new orders instead of an answer to the results
        return _part(fresh, 0, single)
    return _part(script, max(1, _made(messages[start:])), single) or [Step("say", DONE)]


def _last(messages: Sequence[dict[str, Any]], role: str) -> int:
    return max((index for index, message in enumerate(messages) if message["role"] == role), default=-1)


def _turn_start(messages: Sequence[dict[str, Any]]) -> int:
    """Where the turn began that the last results belong to: behind the last assistant message that no result follows."""
    start = 0
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and not _has_results(messages[index + 1 :]):
            start = index + 1
    return start


def _has_results(later: Sequence[dict[str, Any]]) -> bool:
    """Whether a tool's result comes before the next assistant message."""
    for message in later:
        if message["role"] == "tool":
            return True
        if message["role"] == "assistant":
            return False
    return False


def _made(turn: Sequence[dict[str, Any]]) -> int:
    """How many calls the turn has seen."""
    calls = [call for message in turn if message["role"] == "assistant" for call in message.get("tool_calls") or ()]
    results = [message for message in turn if message["role"] == "tool"]
    return max(len(calls), len(results))


def _part(steps: list[Step], made: int, single: bool) -> list[Step]:
    """What is left of a script of which `made` calls were made, up to where results are waited for."""
    calls = [index for index, step in enumerate(steps) if step.kind == "call"]
    if not calls:
        return [] if made else steps
    if made and not single:
        return steps[calls[-1] + 1 :]
    rest = steps[calls[min(made, len(calls)) - 1] + 1 :] if made else steps
    ends = [index for index, step in enumerate(rest) if step.kind == "call"]
    if not ends:
        return rest
    return rest[: (ends[0] if single else ends[-1]) + 1]


def _steps(messages: Sequence[dict[str, Any]]) -> list[Step]:
    return [step for each in messages if each["role"] == "user" for step in marks(str(each.get("content") or ""))]


def marks(text: str) -> Iterator[Step]:
    """The marks of one text, in order. A call whose arguments are no JSON object becomes words that say so."""
    place = 0
    while (found := _MARK.search(text, place)) is not None:
        kind, start = found[1], found.end()
        if kind == "call":
            step, place = _call(text, start)
        else:
            end, place = _end(text, start)
            if end < 0:
                return
            step = Step("say" if kind == "say" else "think", text[start:end])
        yield step


def _end(text: str, start: int) -> tuple[int, int]:
    """Where the words end that begin at `start`, and where their mark ends; -1 when it does not. JSON may hold `]]`."""
    if text.startswith(("{", "["), start):
        try:
            _, end = _decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = -1
        if end > 0 and text.startswith("]]", end):
            return end, end + 2
    end = text.find("]]", start)
    return end, end + 2


def _call(text: str, start: int) -> tuple[Step, int]:
    """The call whose name begins at or behind `start`, and where its mark ends."""
    name = _NAME.match(text, start + len(text[start:]) - len(text[start:].lstrip()))
    if name is None:
        return Step("say", "[[call]] needs the name of a tool."), start
    place = name.end()
    while text[place : place + 1].isspace():
        place += 1
    arguments: Any = {}
    try:
        if not text.startswith("]]", place):
            arguments, place = _decoder.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        return Step("say", f"The arguments of [[call {name[0]} …]] are no JSON: {error}."), place
    if not isinstance(arguments, dict):
        return Step("say", f"The arguments of [[call {name[0]} …]] are no JSON object."), place
    while text[place : place + 1].isspace():
        place += 1
    if not text.startswith("]]", place):
        return Step("say", f"[[call {name[0]} …]] has no ]] behind its arguments."), place
    clean = json.loads(_SURROGATE.sub("\ufffd", json.dumps(arguments, ensure_ascii=False)))
    return Step("call", name[0], clean), place + 2
