"""From Anthropic messages to a Conversation's messages: which block may stand where, and what it becomes. Knows no templates."""

from __future__ import annotations

import msgspec

from tokenwell.api.anthropic.content import block_text, result_text, text_of, unreadable
from tokenwell.api.anthropic.requests import Block, InputMessage, MessagesRequest
from tokenwell.api.anthropic.signature import signed
from tokenwell.api.errors import bad_request
from tokenwell.chat.conversation import Message, ToolCall

# What Anthropic's own servers did in an earlier turn: no model behind this service has seen such tools.
_SERVER_BLOCKS = ("server_tool_use", "mcp_tool_use", "mcp_tool_result", "container_upload")


def messages_of(request: MessagesRequest, warnings: list[str]) -> tuple[tuple[Message, ...], bool]:
    """The messages, the system prompt first, and whether the last one is the beginning of the answer.

    Adds to `warnings` what was left out. Raises ApiError 400 naming the block at fault.
    """
    reading = _Reading(warnings)
    if request.system:
        reading.messages.append(Message(role="system", content=text_of(request.system, "system")))
    last = len(request.messages) - 1
    for index, message in enumerate(request.messages):
        reading.add(message, f"messages[{index}]", index == last)
    reading.end()
    prefilled = request.messages[last].role == "assistant" and bool(request.messages[last].content)
    if prefilled:
        _check_prefill(reading.messages[-1], f"messages[{last}]")
    return tuple(reading.messages), prefilled


class _Reading:
    """The messages so far, and the calls that the next ones must answer."""

    def __init__(self, warnings: list[str]) -> None:
        self.messages: list[Message] = []
        self._warnings = warnings
        self._pending: dict[str, None] = {}  # ids of calls without a result yet, in order
        self._answered: set[str] = set()  # of the same turn
        self._calls: set[str] = set()  # all ids so far

    def add(self, message: InputMessage, path: str, last: bool) -> None:
        """Read one message; `last`: nothing follows it."""
        if message.role not in ("user", "assistant", "system"):
            raise bad_request(
                f"Unknown role in `{path}.role`; known are user, assistant and system.", f"{path}.role", "invalid_value"
            )
        if not message.content:
            if last and message.role == "assistant":
                return  # an empty beginning of the answer
            raise bad_request(f"`{path}.content`: messages must have non-empty content.", f"{path}.content", "invalid_value")
        content = [Block("text", text=message.content)] if isinstance(message.content, str) else message.content
        if message.role == "user":
            self._user(content, f"{path}.content")
            return
        self.end()
        if message.role == "assistant":
            self._assistant(content, f"{path}.content")
        else:
            self.messages.append(Message(role="system", content=text_of(content, f"{path}.content")))

    def end(self) -> None:
        """No result can come any more. Raises ApiError 400 when one is missing."""
        if self._pending:
            raise bad_request(
                f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(self._pending)}. Each "
                "`tool_use` block must have a corresponding `tool_result` block at the start of the next message.",
                "messages",
                "invalid_order",
            )

    def _user(self, blocks: list[Block], path: str) -> None:
        texts: list[str] = []
        for index, block in enumerate(blocks):
            place = f"{path}[{index}]"
            if block.type == "tool_result":
                self._result(block, place, late=bool(texts))
                continue
            if block.type in ("thinking", "redacted_thinking", "tool_use"):
                raise bad_request(
                    f"`{place}`: `{block.type}` blocks belong to assistant messages.", f"{place}.type", "invalid_order"
                )
            self.end()
            if block.type in _SERVER_BLOCKS:
                self._skip(block, place)
                continue
            texts.append(block_text(block, place))
        if texts:
            self.messages.append(Message(role="user", content="\n".join(texts)))

    def _result(self, block: Block, place: str, late: bool) -> None:
        id = block.tool_use_id
        if not id:
            raise bad_request(f"`{place}.tool_use_id` is missing.", f"{place}.tool_use_id", "missing_field")
        if id in self._answered:
            raise bad_request(
                f"`{place}`: each `tool_use` must have a single result; found another one for `{id[:100]}`.",
                f"{place}.tool_use_id",
                "invalid_value",
            )
        if id not in self._pending or late:
            raise bad_request(
                f"`{place}`: unexpected `tool_use_id` in a `tool_result` block: {id[:100]}. Each `tool_result` block must have a "
                "corresponding `tool_use` block in the previous message, and no text before it.",
                f"{place}.tool_use_id",
                "invalid_order",
            )
        del self._pending[id]
        self._answered.add(id)
        self.messages.append(Message(role="tool", content=result_text(block, place, self._warnings), tool_call_id=id))

    def _assistant(self, blocks: list[Block], path: str) -> None:
        self._answered = set()
        thoughts: list[str] = []
        texts: list[str] = []
        calls: list[ToolCall] = []
        for index, block in enumerate(blocks):
            place = f"{path}[{index}]"
            if block.type == "thinking":
                thoughts.append(_thought(block, place))
            elif block.type == "tool_use":
                calls.append(self._call(block, place))
            elif block.type == "text":
                texts.append(block_text(block, place))
            elif block.type in _SERVER_BLOCKS or block.type.endswith("_tool_result"):
                self._skip(block, place)
            elif block.type == "tool_result":
                raise bad_request(f"`{place}`: `tool_result` blocks belong to user messages.", f"{place}.type", "invalid_order")
            elif block.type != "redacted_thinking":  # sealed by another service; it tells this model nothing
                raise unreadable(block.type, place)
        self._pending = {call.id: None for call in calls}
        # Nothing between texts: Anthropic's answers are cut into blocks in the middle of a sentence, to cite.
        self.messages.append(
            Message(
                role="assistant",
                content="".join(texts),
                reasoning="".join(thoughts) or None,
                tool_calls=tuple(calls),
            )
        )

    def _call(self, block: Block, place: str) -> ToolCall:
        for name in ("id", "name"):
            if not getattr(block, name):
                raise bad_request(f"`{place}.{name}` is missing.", f"{place}.{name}", "missing_field")
        assert block.id is not None and block.name is not None
        if block.id in self._calls:
            raise bad_request(
                f"`{place}`: `tool_use` ids must be unique; `{block.id[:100]}` occurs twice.", f"{place}.id", "invalid_value"
            )
        if not isinstance(block.input, dict):
            raise bad_request(f"`{place}.input` must be an object.", f"{place}.input", "invalid_value")
        self._calls.add(block.id)
        return ToolCall(block.id, block.name, msgspec.json.encode(block.input).decode())

    def _skip(self, block: Block, place: str) -> None:
        self._warnings.append(f"{place}: a block of the type {block.type[:60]} was left out")


def _thought(block: Block, place: str) -> str:
    """As it was generated, if the signature is ours; else as the client tells it."""
    own = signed(block.signature) if block.signature else None
    if own is None and block.thinking is None:
        raise bad_request(f"`{place}.thinking` is missing.", f"{place}.thinking", "missing_field")
    return own if own is not None else block.thinking or ""


def _check_prefill(message: Message, path: str) -> None:
    if message.content != message.content.rstrip():
        raise bad_request(
            f"`{path}`: final assistant content cannot end with trailing whitespace.", f"{path}.content", "invalid_value"
        )
