"""Events as Anthropic's content blocks, whole or as a stream in which each block opens, grows and closes before the next."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from tokenwell.api.anthropic.signature import sign
from tokenwell.chat.events import Content, Event, Reasoning, ToolArguments, ToolEnd, ToolStart

Json = dict[str, Any]

encode = msgspec.json.Encoder().encode


def event(kind: str, **fields: object) -> bytes:
    """One server-sent event."""
    return b"event: " + kind.encode() + b"\ndata: " + encode({"type": kind, **fields}) + b"\n\n"


class BlockStream:
    """Turns events into frames. `show_thinking` False: thoughts are told by their signature alone."""

    def __init__(self, show_thinking: bool = True) -> None:
        self._show_thinking = show_thinking
        self._index = -1
        self._kind = ""  # of the open block; "": none is
        self._thought: list[str] = []
        self._text_head = b""

    def feed(self, events: Iterable[Event]) -> bytes:
        """Frames for some events."""
        return b"".join(self._frames(event) for event in events)

    def close(self) -> bytes:
        """Frames that end the open block."""
        if not self._kind:
            return b""
        signature = b""
        if self._kind == "thinking":
            signature = self._delta({"type": "signature_delta", "signature": sign("".join(self._thought))})
            self._thought = []
        self._kind = ""
        return signature + event("content_block_stop", index=self._index)

    def _frames(self, news: Event) -> bytes:
        if isinstance(news, Content):
            return self._open({"type": "text", "text": ""}) + self._text_head + encode(news.text) + b"}}\n\n"
        if isinstance(news, Reasoning):
            opening = self._open({"type": "thinking", "thinking": "", "signature": ""})
            self._thought.append(news.text)
            return opening + (self._delta({"type": "thinking_delta", "thinking": news.text}) if self._show_thinking else b"")
        if isinstance(news, ToolStart):
            return self.close() + self._open(_call(news))
        if isinstance(news, ToolArguments):
            return self._delta({"type": "input_json_delta", "partial_json": news.text})
        return self.close()

    def _open(self, block: Json) -> bytes:
        """Frames that make a block of this kind the open one."""
        if self._kind == block["type"]:
            return b""
        closing = self.close()
        self._index += 1
        self._kind = block["type"]
        # Of a text's frames only the text differs; the rest is encoded once for each block.
        self._text_head = self._delta({"type": "text_delta", "text": ""})[: -len(b'""}}\n\n')]
        return closing + event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: Json) -> bytes:
        return event("content_block_delta", index=self._index, delta=delta)


def blocks_of(events: Iterable[Event], show_thinking: bool = True) -> list[Json]:
    """The same blocks whole. The input of a call that the length limit cut off is empty: half of it must not be carried out."""
    blocks: list[Json] = []
    last = ""
    arguments: list[str] = []
    for news in events:
        if isinstance(news, ToolArguments):
            arguments.append(news.text)
        elif isinstance(news, ToolEnd):
            blocks[-1]["input"] = json.loads("".join(arguments))
            last = ""
        elif isinstance(news, ToolStart):
            blocks.append(_call(news))
            arguments = []
            last = "tool_use"
        else:
            kind = "text" if isinstance(news, Content) else "thinking"
            if last != kind:
                blocks.append({"type": kind, kind: ""} | ({"signature": ""} if kind == "thinking" else {}))
                last = kind
            blocks[-1][kind] += news.text
    for block in blocks:
        if block["type"] == "thinking":
            block["signature"] = sign(block["thinking"])
            if not show_thinking:
                block["thinking"] = ""
    return blocks


def _call(start: ToolStart) -> Json:
    return {"type": "tool_use", "id": "toolu_" + start.id.removeprefix("call_"), "name": start.name, "input": {}}
