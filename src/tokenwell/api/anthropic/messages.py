"""POST /v1/messages and /v1/messages/count_tokens: conversations in, messages or their events out."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.api.answering import Begun, accept, begin, cache_lost, event_stream, read, render, unenforced, whole_answer
from tokenwell.api.anthropic.blocks import BlockStream, blocks_of, encode, event
from tokenwell.api.anthropic.errors import error_body
from tokenwell.api.anthropic.options import conversation_of
from tokenwell.api.anthropic.requests import MessagesRequest
from tokenwell.api.errors import ApiError
from tokenwell.api.exchange import exchange_of
from tokenwell.chat.events import Event
from tokenwell.service.gateway import Gateway
from tokenwell.service.generation import Piece, Usage, Whole

_decoder = msgspec.json.Decoder(MessagesRequest)
_PING = event("ping")
_STOPS = {"tool_calls": "tool_use", "length": "max_tokens"}


class Messages:
    """The endpoints."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def create(self, request: Request) -> Response:
        """Answer one request, streaming or not."""
        gateway = self._gateway
        wanted, model = await accept(request, gateway, _decoder)
        conversation, warnings = conversation_of(wanted)
        exchange = exchange_of(request)
        exchange.warn(warnings)
        wanted.n = None  # a field of other dialects; an answer here is one message
        wanted.stop = wanted.stop_sequences or None
        begun = await begin(
            request,
            gateway,
            conversation,
            wanted,
            noun="messages",
            max_tokens=wanted.max_tokens,
            stream=bool(wanted.stream),
        )
        hidden = wanted.thinking is not None and wanted.thinking.display == "omitted"
        answer = _Answer(begun, model, show_thinking=not hidden)
        if wanted.stream:

            def error_frames(error: ApiError) -> bytes:
                return b"event: error\ndata: " + error_body(error, exchange.id) + b"\n\n"

            return event_stream(
                request,
                gateway,
                begun.generation,
                answer.frames(request),
                keep_alive=_PING,
                error_frames=error_frames,
                noun="messages",
            )
        return await whole_answer(request, answer.whole(request), "messages")

    async def count_tokens(self, request: Request) -> Response:
        """How many tokens the prompt of such a request has."""
        wanted = await read(request, self._gateway, _decoder)
        self._gateway.catalogue.resolve(wanted.model)
        conversation, warnings = conversation_of(wanted)
        exchange_of(request).warn(warnings)
        prompt = await render(request, self._gateway, conversation, "messages")
        return Response(encode({"input_tokens": len(prompt.tokens)}), media_type="application/json")


class _Answer:
    """Turns one generation into a message or into its events."""

    def __init__(self, begun: Begun, model: str, *, show_thinking: bool) -> None:
        self._prompt = begun.prompt
        self._generation = begun.generation
        self._show_thinking = show_thinking
        self._head: dict[str, Any] = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
            "model": model,
        }

    async def whole(self, request: Request) -> bytes:
        """The complete message as JSON."""
        with self._generation as generation:
            [whole] = await generation.collect()
        exchange_of(request).finish = whole.finish
        blocks = blocks_of(whole.events, self._show_thinking)
        more = await unenforced(self._prompt, [whole.events])
        return encode({**self._head, "content": blocks, **_ending(whole), "usage": usage_of(generation.usage()), **more})

    async def frames(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The events as they come; b"" after a bare wake-up.

        The message starts before anything is known of the cache, so that clients see at once that they are heard; they take
        the figures from its end instead.
        """
        blocks = BlockStream(self._show_thinking)
        with self._generation as generation:
            start = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None}
            yield event("message_start", message=start | {"usage": usage_of(generation.usage())}) + _PING
            ending: Piece | None = None
            kept: list[Event] = []  # if they are checked at the end
            while not generation.done:
                out: list[bytes] = []
                for piece in await generation.next():
                    out.append(blocks.feed(piece.events))
                    if self._prompt.checks:
                        kept += piece.events
                    if piece.finish is not None:
                        ending = piece
                yield b"".join(out)
            assert ending is not None  # the generation is done because a piece said so
            exchange_of(request).finish = ending.finish
            more = await unenforced(self._prompt, [kept])
            usage = usage_of(generation.usage())
            yield blocks.close() + event("message_delta", delta=_ending(ending), usage=usage, **more) + event("message_stop")


def usage_of(usage: Usage) -> dict[str, Any]:
    """The `usage` object: `input_tokens` are those that had to be computed."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "server_tool_use": None,
        "service_tier": "standard",
        **cache_lost(usage),
    }


def _ending(part: Piece | Whole) -> dict[str, Any]:
    """Why the answer ended."""
    sequence = part.stop_reason if part.finish == "stop" and isinstance(part.stop_reason, str) else None
    stopped = "end_turn" if sequence is None else "stop_sequence"
    return {"stop_reason": _STOPS.get(part.finish or "", stopped), "stop_sequence": sequence}
