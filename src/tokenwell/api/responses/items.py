"""From input items to messages, and items as they are kept for later.

Knows the dialect's items, not templates. Consecutive items of the assistant (thoughts, text, calls) are one message, as they
were when they were generated.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tokenwell.api.errors import bad_request
from tokenwell.api.parts import text_of
from tokenwell.api.responses.freeform import wrap
from tokenwell.api.responses.requests import (
    CallItem,
    CustomCallItem,
    Json,
    MessageItem,
    OutputItem,
    ReasoningItem,
    convert,
)
from tokenwell.api.responses.sealed import unseal
from tokenwell.api.responses.toolbox import Toolbox
from tokenwell.chat.conversation import Message, Role, ToolCall

_ROLES: dict[str, Role] = {"system": "system", "developer": "developer", "user": "user", "assistant": "assistant"}


def type_of(item: Json, path: str) -> str:
    """The item's type; it may be left out of messages and of references. Raises ApiError 400 without any."""
    given = item.get("type")
    if isinstance(given, str):
        return given
    if given is None and "role" in item:
        return "message"
    if given is None and "id" in item:
        return "item_reference"
    raise bad_request(f"`{path}` has no `type`.", f"{path}.type", "missing_field")


class Reading:
    """Items to messages, one after the other."""

    def __init__(self, box: Toolbox, warnings: list[str]) -> None:
        self.messages: list[Message] = []
        self._box = box
        self._warnings = warnings
        self._draft: _Draft | None = None  # the assistant's message that still grows
        self._open: set[str] = set()  # calls whose output has not come
        self._answered: set[str] = set()

    def add(self, item: Json, path: str) -> None:
        """Read one item. Raises ApiError 400 naming the field at fault."""
        type_ = type_of(item, path)
        if type_ == "message":
            self._message(convert(item, MessageItem, path), path)
        elif type_ == "reasoning":
            self._assistant().think(_thought(convert(item, ReasoningItem, path), path))
        elif type_ == "function_call":
            call = convert(item, CallItem, path)
            name = self._box.offered(call.name, call.namespace)
            self._call(ToolCall(call.call_id, name, _arguments(call.arguments)), path)
        elif type_ == "custom_tool_call":
            custom = convert(item, CustomCallItem, path)
            name = self._box.offered(custom.name, custom.namespace)
            self._call(ToolCall(custom.call_id, name, wrap(custom.input)), path)
        elif type_ in ("function_call_output", "custom_tool_call_output"):
            self._output(convert(item, OutputItem, path), path)
        else:
            self._warnings.append(f"{path} of type {type_[:40]} was skipped: it cannot be shown to the model")

    def finish(self) -> tuple[Message, ...]:
        """All messages."""
        self._close()
        return tuple(self.messages)

    def _message(self, message: MessageItem, path: str) -> None:
        role = _ROLES.get(message.role)
        if role is None:
            known = ", ".join(_ROLES)
            raise bad_request(f"Unknown role in `{path}.role`; known are {known}.", f"{path}.role", "invalid_value")
        text = text_of(message.content, f"{path}.content")
        if role == "assistant":
            self._assistant().say(text)
            return
        self._close()
        self.messages.append(Message(role=role, content=text))

    def _call(self, call: ToolCall, path: str) -> None:
        if call.id in self._open:
            raise bad_request(f"There are two calls with the id `{call.id[:80]}`.", f"{path}.call_id", "duplicate_call_id")
        self._open.add(call.id)
        self._answered.discard(call.id)
        self._assistant().call(call)

    def _output(self, output: OutputItem, path: str) -> None:
        if output.call_id not in self._open:
            what = "is a second output for" if output.call_id in self._answered else "answers"
            why = "" if output.call_id in self._answered else ", but there is no such call before it"
            raise bad_request(f"`{path}` {what} the call `{output.call_id[:80]}`{why}.", f"{path}.call_id", "invalid_value")
        self._close()
        self._open.discard(output.call_id)
        self._answered.add(output.call_id)
        text = text_of(output.output, f"{path}.output", self._warnings)
        self.messages.append(Message(role="tool", content=text, tool_call_id=output.call_id))

    def _assistant(self) -> _Draft:
        if self._draft is None:
            self._draft = _Draft()
        return self._draft

    def _close(self) -> None:
        if self._draft is not None and not self._draft.empty:
            self.messages.append(self._draft.message())
        self._draft = None


class _Draft:
    """A message of the assistant that grows by items."""

    def __init__(self) -> None:
        self._thoughts: list[str] = []
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._spoke_last = False

    @property
    def empty(self) -> bool:
        return not (self._thoughts or self._texts or self._calls)

    def think(self, thought: str | None) -> None:
        if thought is not None:
            self._thoughts.append(thought)
            self._spoke_last = False

    def say(self, text: str) -> None:
        # An answer of ours has something between two texts; two messages side by side were two messages.
        self._texts += ["\n", text] if self._spoke_last else [text]
        self._spoke_last = True

    def call(self, call: ToolCall) -> None:
        self._calls.append(call)
        self._spoke_last = False

    def message(self) -> Message:
        return Message(
            role="assistant",
            content="".join(self._texts),
            reasoning="".join(self._thoughts) if self._thoughts else None,
            tool_calls=tuple(self._calls),
        )


def _thought(item: ReasoningItem, path: str) -> str | None:
    """The thought as it was generated if we sealed it, else in the words that are there; None: it is another service's secret."""
    sealed = unseal(item.encrypted_content)
    if sealed is not None:
        return sealed
    # Our own thoughts are one part; the parts of others' are paragraphs.
    for parts, name in ((item.content, "content"), (item.summary, "summary")):
        if parts:
            return text_of(parts, f"{path}.{name}")
    return None


def _arguments(arguments: str | Json | None) -> str:
    if isinstance(arguments, dict):
        return msgspec.json.encode(arguments).decode()
    return arguments or "{}"


# ---------------------------------------------------------------- items as they are kept


def kept(items: str | list[Json], stem: str) -> list[Json]:
    """The request's items as they are stored and listed: each with an id and, of messages, content parts."""
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    return [_whole(item, f"{stem}in{index}") for index, item in enumerate(items)]


def _whole(item: Json, suffix: str) -> Json:
    type_ = type_of(item, "input")
    whole: Json = {**item, "type": type_}
    if not isinstance(item.get("id"), str):
        whole["id"] = f"{_PREFIXES.get(type_, 'item')}_{suffix}"
    if type_ == "message":
        whole["status"] = item.get("status") or "completed"
        whole["content"] = _parts(item)
    elif type_ in ("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"):
        whole["status"] = item.get("status") or "completed"
    elif type_ == "reasoning":
        whole["summary"] = item.get("summary") or []
    return whole


_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def _parts(item: Json) -> list[Any]:
    content = item.get("content")
    if isinstance(content, list):
        return content
    text = content or ""
    if item.get("role") == "assistant":
        return [{"type": "output_text", "text": text, "annotations": []}]
    return [{"type": "input_text", "text": text}]
