"""What every answer of the dialect is wrapped in: id, object, time, model, usage, and the pre-encoded frames of a stream."""

from __future__ import annotations

import secrets
import time
from typing import Any

import msgspec

from tokenwell.api.sse import frame
from tokenwell.service.generation import Usage

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
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
