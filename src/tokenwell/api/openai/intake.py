"""What chat and text completions do alike: read the body, expand choices, check the window, answer or stream.

Knows the dialect's common fields; what is in a chunk is the business of `chat` and `completions`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.api.body import parse, read_body
from tokenwell.api.errors import from_failure, internal_error, translate
from tokenwell.api.exchange import exchange_of, log_unexpected
from tokenwell.api.openai.envelope import DONE, Envelope
from tokenwell.api.openai.requests import GenerationFields
from tokenwell.api.openai.sampling import seed_of_choice
from tokenwell.api.sse import EventStream, frame
from tokenwell.service.gateway import Gateway
from tokenwell.service.generation import Generation
from tokenwell.service.window import fit
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling

T = TypeVar("T")


async def read(request: Request, gateway: Gateway, decoder: msgspec.json.Decoder[T]) -> T:
    """The typed body. Raises ApiError 400 or 413."""
    return parse(await read_body(request, gateway.settings.server.max_body_mib * 2**20), decoder)


def expand(prompts: list[list[int]], sampling: Sampling, choices: int) -> list[Generate]:
    """One Generate for every choice of every prompt, the choices of a prompt side by side."""
    stem = secrets.token_hex(8)
    samplings = [msgspec.structs.replace(sampling, seed=seed_of_choice(sampling.seed, choice)) for choice in range(choices)]
    return [
        Generate(f"{stem}-{index}-{choice}", prompt, samplings[choice])
        for index, prompt in enumerate(prompts)
        for choice in range(choices)
    ]


def check_window(requests: list[Generate], gateway: Gateway, noun: str) -> None:
    """Raise ApiError 400 for a prompt that is too long, if the window is known by now; the supervisor checks it anyway."""
    window = gateway.window_tokens
    if window is None:
        return
    for request in requests:
        fitted = fit(request, window, noun)
        if isinstance(fitted, RequestError):
            raise from_failure(fitted, param=noun)


def stream_response(
    request: Request,
    gateway: Gateway,
    generation: Generation,
    envelope: Envelope,
    frames: AsyncGenerator[bytes, None],
    param: str,
) -> Response:
    """The event stream of a generation."""

    def describe(error: Exception) -> bytes:
        exchange = exchange_of(request)
        exchange.finish = "error"
        known = translate(error, param)
        if known is None:
            log_unexpected(exchange, error)
        return frame((known or internal_error()).body()) + DONE

    return EventStream(
        frames,
        wake=generation.wake,
        describe=describe,
        keep_alive=envelope.chunk([]),
        keep_alive_s=gateway.settings.server.keep_alive_s,
    )


def wants_usage(request: GenerationFields) -> tuple[bool, bool]:
    """Whether chunks carry a `usage` field, and whether it is filled in every one of them."""
    options = request.stream_options
    continuous = options is not None and bool(options.continuous_usage_stats)
    return continuous or (options is not None and bool(options.include_usage)), continuous
