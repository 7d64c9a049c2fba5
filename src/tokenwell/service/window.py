"""Fitting a request into the context window that the engine enforces. Pure arithmetic and the words of the refusal."""

from __future__ import annotations

import re

import msgspec

from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate

OVERFLOW_CODE = "context_length_exceeded"

_FIGURES = re.compile(r"maximum context length is (\d+) tokens\..* resulted in (\d+) tokens")


def fit(request: Generate, window_tokens: int, noun: str) -> Generate | RequestError:
    """The request with `max_tokens` clamped to what the prompt leaves free, or why its prompt is too long.

    `noun` is what the client calls its input ("messages", "prompt"). A request for no output needs no room for any.
    The wording is OpenAI's: agents recognise it and compact their history.
    """
    prompt_tokens = len(request.prompt)
    wanted = request.sampling.max_tokens
    left = window_tokens - prompt_tokens
    if left < min(wanted, 1):
        return RequestError(
            OVERFLOW_CODE,
            f"This model's maximum context length is {window_tokens} tokens. However, your {noun} resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the {noun}.",
        )
    if wanted <= left:
        return request
    sampling = msgspec.structs.replace(request.sampling, max_tokens=left, min_tokens=min(request.sampling.min_tokens, left))
    return msgspec.structs.replace(request, sampling=sampling)


def overflow_figures(message: str) -> tuple[int, int] | None:
    """Prompt tokens and window of a refusal in the words of `fit`, for dialects with words of their own; None for other texts."""
    match = _FIGURES.search(message)
    return None if match is None else (int(match[2]), int(match[1]))
