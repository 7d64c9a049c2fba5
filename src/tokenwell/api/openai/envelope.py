"""What every answer of the dialect is wrapped in: id, object, time, model, usage, and the pre-encoded frames of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.requests import Request

from tokenwell.api.answering import cache_lost, event_stream
from tokenwell.api.openai.requests import GenerationFields
from tokenwell.api.sse import EventStream, frame
from tokenwell.service.gateway import Gateway
from tokenwell.service.generation import Generation, Usage

SYSTEM_FINGERPRINT = "fp_tokenwell"
DONE = frame(b"[DONE]")

encode = msgspec.json.Encoder().encode


class Envelope:
    """The constant part of one answer and of all its chunks."""

    def __init__(self, prefix: str, object_: str, model: str) -> None:
        self._head = {
            "id": prefix + secrets.token_hex(12),
            "object": object_,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }
        # Chunks differ in their choices only; the rest is encoded once for the whole stream.
        self._opening = b"data: " + encode(self._head)[:-1] + b',"choices":'

    def whole(self, choices: list[dict[str, Any]], usage: Usage, **more: object) -> bytes:
        """A complete answer."""
        return encode({**self._head, "choices": choices, "usage": usage_of(usage), **more})

    def opening(self, choice_head: bytes) -> bytes:
        """Everything of a chunk up to and with `choice_head`, to be kept by the caller."""
        return self._opening + choice_head

    def chunk(self, choices: list[dict[str, Any]], **more: object) -> bytes:
        """A chunk of any content."""
        rest = b"".join(b"," + encode(name) + b":" + encode(value) for name, value in more.items())
        return self._opening + encode(choices) + rest + b"}\n\n"


def usage_of(usage: Usage) -> dict[str, Any]:
    """The `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0, **cache_lost(usage)},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chunk_stream(
    request: Request,
    gateway: Gateway,
    generation: Generation,
    envelope: Envelope,
    frames: AsyncGenerator[bytes, None],
    noun: str,
) -> EventStream:
    """The event stream of a generation; a chunk without choices keeps it alive, an error object ends it."""
    return event_stream(
        request,
        gateway,
        generation,
        frames,
        keep_alive=envelope.chunk([]),
        error_frames=lambda error: frame(error.body()) + DONE,
        noun=noun,
    )


def wants_usage(request: GenerationFields) -> tuple[bool, bool]:
    """Whether chunks carry a `usage` field, and whether it is filled in every one of them."""
    options = request.stream_options
    continuous = options is not None and bool(options.continuous_usage_stats)
    return continuous or (options is not None and bool(options.include_usage)), continuous
