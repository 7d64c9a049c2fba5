"""Events to output items and to the events of a stream, in one machine: both are the same answer.

Owns ids, order and sequence numbers. Knows neither HTTP nor generations: events go in, items and stream events come out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from tokenwell.api.errors import ApiError
from tokenwell.api.responses.freeform import Unwrapping
from tokenwell.api.responses.requests import Json
from tokenwell.api.responses.sealed import seal
from tokenwell.api.responses.toolbox import Toolbox
from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart

# How an answer may end -> the response's status.
_STATUS = {"stop": "completed", "tool_calls": "completed", "length": "incomplete", "cancelled": "cancelled"}
# The SDK knows no event for a cancelled response; its stream ends as one that was cut short.
_TERMINAL = {"completed": "response.completed", "incomplete": "response.incomplete", "cancelled": "response.incomplete"}
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{16})")  # a prefix, and what secrets.token_hex(8) gives
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class Numbered:
    """Gives every event of a stream its number."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, type_: str, **fields: Any) -> Json:
        number = self._next
        self._next += 1
        return {"type": type_, "sequence_number": number, **fields}


class _Text:
    """An item that is written piece by piece: a thought or a message."""

    def __init__(self, item: Json, tell: Numbered, index: int) -> None:
        self.item = item
        self.tell = tell
        self.index = index
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def place(self, **more: Any) -> Json:
        return {"item_id": self.item["id"], "output_index": self.index, **more}


class _Message(_Text):
    """Visible text."""

    def open(self) -> list[Json]:
        return [self.tell("response.content_part.added", **self.place(content_index=0, part=_output_text("")))]

    def add(self, piece: str) -> list[Json]:
        self.pieces.append(piece)
        return [self.tell("response.output_text.delta", **self.place(content_index=0, delta=piece, logprobs=[]))]

    def close(self, whole: bool) -> list[Json]:
        part = _output_text(self.text)
        self.item["content"] = [part]
        return [
            self.tell("response.output_text.done", **self.place(content_index=0, text=self.text, logprobs=[])),
            self.tell("response.content_part.done", **self.place(content_index=0, part=part)),
        ]

    def snapshot(self) -> Json:
        return {**self.item, "content": [_output_text(self.text)]}


class _Thought(_Text):
    """Reasoning. Who asked for a summary gets the thought itself under that name too: nothing here could shorten it."""

    def __init__(self, item: Json, tell: Numbered, index: int, summarised: bool, sealed: bool) -> None:
        super().__init__(item, tell, index)
        self._summarised = summarised
        self._sealed = sealed

    def open(self) -> list[Json]:
        part = {"type": "reasoning_text", "text": ""}
        events = [self.tell("response.content_part.added", **self.place(content_index=0, part=part))]
        if self._summarised:
            part = {"type": "summary_text", "text": ""}
            events.append(self.tell("response.reasoning_summary_part.added", **self.place(summary_index=0, part=part)))
        return events

    def add(self, piece: str) -> list[Json]:
        self.pieces.append(piece)
        events = [self.tell("response.reasoning_text.delta", **self.place(content_index=0, delta=piece))]
        if self._summarised:
            events.append(self.tell("response.reasoning_summary_text.delta", **self.place(summary_index=0, delta=piece)))
        return events

    def close(self, whole: bool) -> list[Json]:
        text = self.text
        part = {"type": "reasoning_text", "text": text}
        self.item |= self._filled(text)
        events = [
            self.tell("response.reasoning_text.done", **self.place(content_index=0, text=text)),
            self.tell("response.content_part.done", **self.place(content_index=0, part=part)),
        ]
        if self._summarised:
            part = {"type": "summary_text", "text": text}
            events += [
                self.tell("response.reasoning_summary_text.done", **self.place(summary_index=0, text=text)),
                self.tell("response.reasoning_summary_part.done", **self.place(summary_index=0, part=part)),
            ]
        return events

    def snapshot(self) -> Json:
        return {**self.item, **self._filled(self.text)}

    def _filled(self, text: str) -> Json:
        filled: Json = {
            "summary": [{"type": "summary_text", "text": text}] if self._summarised else [],
            "content": [{"type": "reasoning_text", "text": text}],
        }
        if self._sealed:
            filled["encrypted_content"] = seal(text)
        return filled


class _Call(_Text):
    """A call of a function."""

    def open(self) -> list[Json]:
        return []

    def add(self, piece: str) -> list[Json]:
        self.pieces.append(piece)
        return [self.tell("response.function_call_arguments.delta", **self.place(delta=piece))]

    def close(self, whole: bool) -> list[Json]:
        arguments = self.item["arguments"] = self.text
        if not whole:  # whoever acts on `done` must not act on half a call
            return []
        name = self.item["name"]
        return [self.tell("response.function_call_arguments.done", **self.place(name=name, arguments=arguments))]

    def snapshot(self) -> Json:
        return {**self.item, "arguments": self.text}


class _FreeformCall(_Text):
    """A call of a tool that takes text."""

    def __init__(self, item: Json, tell: Numbered, index: int) -> None:
        super().__init__(item, tell, index)
        self._unwrapping = Unwrapping()

    def open(self) -> list[Json]:
        return []

    def add(self, piece: str) -> list[Json]:
        return self._delta(self._unwrapping.feed(piece))

    def close(self, whole: bool) -> list[Json]:
        events = self._delta(self._unwrapping.finish())
        text = self.item["input"] = self._unwrapping.text
        if whole:
            events.append(self.tell("response.custom_tool_call_input.done", **self.place(input=text)))
        return events

    def snapshot(self) -> Json:
        return {**self.item, "input": self._unwrapping.text}

    def _delta(self, text: str) -> list[Json]:
        return [self.tell("response.custom_tool_call_input.delta", **self.place(delta=text))] if text else []


_Item = _Message | _Thought | _Call | _FreeformCall


class Answer:
    """One response while it is made. `describe(answer)` gives the whole response object as it stands."""

    def __init__(
        self, stem: str, box: Toolbox, describe: Callable[[Answer], Json], *, summarised: bool = False, sealed: bool = False
    ) -> None:
        self.status = "in_progress"
        self.error: Json | None = None
        self.stem = stem
        self._box = box
        self._describe = describe
        self._summarised = summarised
        self._sealed = sealed
        self._tell = Numbered()
        self._items: list[_Item] = []
        self._text: _Message | _Thought | None = None  # the item that text goes on in
        self._calls: dict[int, _Call | _FreeformCall] = {}  # those that are still written, by the event's index

    @property
    def ended(self) -> bool:
        """True once nothing more can come."""
        return self.status != "in_progress"

    def response(self) -> Json:
        """The response object as it stands."""
        return self._describe(self)

    def output(self) -> list[Json]:
        """The items as they stand."""
        return [item.snapshot() if item.item["status"] == "in_progress" else item.item for item in self._items]

    def begin(self) -> list[Json]:
        """The first events of a stream."""
        response = self.response()
        return [self._tell("response.created", response=response), self._tell("response.in_progress", response=response)]

    def keep_alive(self) -> Json:
        """An event that says nothing new, with the next number."""
        return self._tell("response.in_progress", response=self.response())

    def feed(self, events: Iterable[Event]) -> list[Json]:
        """Stream events for what was generated."""
        told: list[Json] = []
        for event in events:
            if isinstance(event, Content):
                told += self._say(event.text, _Message)
            elif isinstance(event, Reasoning):
                told += self._say(event.text, _Thought)
            elif isinstance(event, ToolStart):
                told += self._end_text()
                told += self._call(event)
            elif isinstance(event, ToolArguments):
                call = self._calls.get(event.index)
                told += call.add(event.text) if call is not None and event.text else ()
            elif isinstance(event, ToolEnd):
                ended = self._calls.pop(event.index, None)
                told += self._end_item(ended, "completed") if ended is not None else ()
        return told

    def end(self, finish: str) -> list[Json]:
        """The last events; `finish` is how the generation ended, or "cancelled"."""
        told = self._end_items("completed" if finish in ("stop", "tool_calls") else "incomplete")
        self.status = _STATUS[finish]
        return [*told, self._tell(_TERMINAL[self.status], response=self.response())]

    def fail(self, error: ApiError) -> list[Json]:
        """The last event of a response that was lost. What is still open is not told as done: who asks again must not keep it."""
        for item in (self._text, *self._calls.values()):
            if item is not None:
                item.item |= {**item.snapshot(), "status": "incomplete"}
        self.status = "failed"
        self.error = {"code": _ERROR_CODES.get(error.status, "server_error"), "message": error.message}
        return [self._tell("response.failed", response=self.response())]

    # ------------------------------------------------------------------ items

    def _say(self, text: str, kind: type[_Message] | type[_Thought]) -> list[Json]:
        if not text:
            return []
        told: list[Json] = []
        if type(self._text) is not kind:
            told += self._end_text()
            item = self._thought() if kind is _Thought else self._message()
            self._text = item
            told += self._added(item)
        assert self._text is not None
        return [*told, *self._text.add(text)]

    def _message(self) -> _Message:
        index = len(self._items)
        item = {"id": self._id("msg"), "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        return _Message(item, self._tell, index)

    def _thought(self) -> _Thought:
        index = len(self._items)
        item = {"id": self._id("rs"), "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}
        return _Thought(item, self._tell, index, self._summarised, self._sealed)

    def _call(self, event: ToolStart) -> list[Json]:
        known = self._box.known(event.name)
        kind, field, prefix = (
            ("custom_tool_call", "input", "ctc") if known.freeform else ("function_call", "arguments", "fc")
        )  # fmt: skip
        item = {
            "id": self._id(prefix),
            "type": kind,
            "call_id": event.id,
            "name": known.name,
            field: "",
            "status": "in_progress",
        }
        if known.namespace is not None:
            item["namespace"] = known.namespace
        made = _FreeformCall if known.freeform else _Call
        call = self._calls[event.index] = made(item, self._tell, len(self._items))
        return self._added(call)

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self.stem}{len(self._items):04d}"

    def _added(self, item: _Item) -> list[Json]:
        self._items.append(item)
        added = self._tell("response.output_item.added", output_index=item.index, item=dict(item.item))
        return [added, *item.open()]

    def _end_text(self) -> list[Json]:
        item, self._text = self._text, None
        return [] if item is None else self._end_item(item, "completed")

    def _end_items(self, status: str) -> list[Json]:
        """End what is still open. A call is open only when it was cut off, whatever became of the rest."""
        told: list[Json] = []
        if self._text is not None:
            told += self._end_item(self._text, status)
            self._text = None
        for call in self._calls.values():
            told += self._end_item(call, "incomplete")
        self._calls.clear()
        return told

    def _end_item(self, item: _Item, status: str) -> list[Json]:
        told = item.close(whole=status == "completed")
        item.item["status"] = status
        # Clients act on `done` whatever its status says: Codex runs half a call, and half a freeform text looks like a whole one.
        if isinstance(item, _Call | _FreeformCall) and status != "completed":
            return told
        return [*told, self._tell("response.output_item.done", output_index=item.index, item=dict(item.item))]


def _output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def stem_of(id: str) -> str:
    """The part of a generation's id that its ids in this dialect are made from."""
    return id.partition("-")[0]


def response_id(stem: str) -> str:
    """The id of a response."""
    return f"resp_{stem}"


def response_of_item(id: str) -> str | None:
    """The id of the response that made or was given an item with this id; None for an id that is none of ours."""
    made = _ITEM_ID.match(id)
    return None if made is None else response_id(made[1])
