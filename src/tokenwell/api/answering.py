"""From a dialect's request to a running generation, and to an event stream: what every dialect does alike.

Knows no dialect: conversations and wishes come in, the views on events and the shapes of errors stay outside.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tokenwell.api.body import parse, read_body
from tokenwell.api.errors import ApiError, bad_request, from_failure, internal_error, translate
from tokenwell.api.exchange import exchange_of, log_unexpected
from tokenwell.api.sampling import sampling_of, seed_of_choice, stop_rules
from tokenwell.api.sse import EventStream, while_connected
from tokenwell.api.wishes import Wishes
from tokenwell.chat.conversation import ChatError, Conversation, Prompt
from tokenwell.chat.events import Event
from tokenwell.chat.grammar.checks import violations
from tokenwell.chat.grammar.constraint import Constraint
from tokenwell.service.gateway import Gateway
from tokenwell.service.generation import Generation, Usage
from tokenwell.service.job import RequestFailed
from tokenwell.service.window import fit
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Generate
from tokenwell.wire.sampling import Sampling


class Named(Protocol):
    """A request that says which model is to answer, or leaves it open."""

    model: str | None


T = TypeVar("T")
N = TypeVar("N", bound=Named)

_UNBOUNDED = 2**31 - 1  # "what is left": clamped to the window before the engine sees it


@dataclass(frozen=True)
class Begun:
    """A conversation's answer, not yet queued: entering `generation` does that."""

    prompt: Prompt
    generation: Generation


async def read(request: Request, gateway: Gateway, decoder: msgspec.json.Decoder[T]) -> T:
    """The typed body. Raises ApiError 400 or 413."""
    return parse(await read_body(request, gateway.settings.server.max_body_mib * 2**20), decoder)


async def accept(request: Request, gateway: Gateway, decoder: msgspec.json.Decoder[N]) -> tuple[N, str]:
    """The typed body of a request that wants an answer, and the model's name to answer with.

    Raises ApiError as `read` does, RequestFailed when no request can be taken now, UnknownModel.
    """
    wanted = await read(request, gateway, decoder)
    gateway.admit()
    return wanted, gateway.catalogue.resolve(wanted.model)


async def render(
    request: Request, gateway: Gateway, conversation: Conversation, noun: str, max_tokens: int | None = None
) -> Prompt:
    """The prompt of an answer of at most `max_tokens`; what could not be enforced is told in a header.

    `noun` is the request's field for its messages, as errors name it. Raises ApiError 400, and ClientGone when the client
    leaves while a slow template runs.
    """
    if conversation.tools and not gateway.model.reads_tools:
        raise _cannot_use_tools()
    # In a thread: templates are programs of strangers, and long texts and big schemas take their time.
    rendering = asyncio.to_thread(gateway.model.render, conversation, max_tokens)
    try:
        prompt = await while_connected(request.receive, rendering)
    except ChatError as error:
        raise (translate(error, noun) or error) from error
    if not prompt.tokens:
        raise bad_request("The conversation renders to an empty prompt.", noun, "invalid_value")
    exchange_of(request).warn(prompt.warnings)
    return prompt


async def begin(
    request: Request,
    gateway: Gateway,
    conversation: Conversation,
    wishes: Wishes,
    *,
    noun: str,
    max_tokens: int | None,
    stream: bool,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    every_token: bool = False,
) -> Begun:
    """Render the conversation and make its generation, with `wishes.n` choices.

    `noun` as for `render`. `max_tokens` None: the checkpoint's default, or what the window leaves. Raises as `render` does.
    """
    limits = [limit for limit in (max_tokens, gateway.window_tokens) if limit is not None]
    prompt = await render(request, gateway, conversation, noun, min(limits, default=None))
    sampling = sampling_of(
        wishes,
        gateway.model,
        gateway.vocab_size,
        max_tokens=_bounded(max_tokens, gateway.model.defaults.max_new_tokens, wishes.min_tokens or 0),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=prompt.grammar,
    )
    choices = wishes.n or 1
    requests = expand([prompt.tokens], sampling, choices)
    check_window(requests, gateway, noun)
    generation = gateway.generation(
        requests,
        choices=choices,
        noun=noun,
        prompt=prompt,
        stop=stop_rules(wishes),
        skip_special_tokens=wishes.skip_special_tokens is not False,
        eager=stream,
        every_token=every_token,
    )
    exchange_of(request).generation = generation
    generation.turn = gateway.examine(prompt)
    return Begun(prompt, generation)


async def whole_answer(request: Request, body: Coroutine[Any, Any, bytes], noun: str) -> Response:
    """The answer that is not streamed, when `body` has made its JSON. Raises ApiError, and ClientGone when the client leaves."""
    try:
        return Response(await while_connected(request.receive, body), media_type="application/json")
    except RequestFailed as error:
        raise (translate(error, noun) or error) from error


async def unenforced(promise: Prompt | Constraint, answers: Sequence[Sequence[Event]]) -> dict[str, list[str]]:
    """The field `warnings` of an answer: what no grammar could promise, and where an answer broke it; {} if all was enforced."""
    if not promise.warnings:
        return {}
    # In a thread: schemas and answers may be large, and the first check loads a library.
    found = await asyncio.to_thread(lambda: [warning for events in answers for warning in violations(promise.checks, events)])
    return {"warnings": [*promise.warnings, *found]}


def cache_lost(usage: Usage) -> dict[str, str]:
    """The field `cache` among the details of a prompt's usage: there only when little of the turn before was reused."""
    return {} if usage.cache_lost is None else {"cache": usage.cache_lost}


def event_stream(
    request: Request,
    gateway: Gateway,
    generation: Generation,
    frames: AsyncGenerator[bytes, None],
    *,
    keep_alive: bytes | Callable[[], bytes],
    error_frames: Callable[[ApiError], bytes],
    noun: str,
) -> EventStream:
    """The streamed answer: `frames` as they come, `keep_alive` in silence, `error_frames` of whatever went wrong at the end."""

    def describe(error: Exception) -> bytes:
        exchange = exchange_of(request)
        exchange.finish = "error"
        known = translate(error, noun)
        if known is None:
            log_unexpected(exchange, error)
        return error_frames(known or internal_error())

    return EventStream(
        frames,
        wake=generation.wake,
        describe=describe,
        keep_alive=keep_alive,
        keep_alive_s=gateway.settings.server.keep_alive_s,
    )


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


def _bounded(max_tokens: int | None, default: int | None, min_tokens: int) -> int:
    if max_tokens is not None:
        return min(max_tokens, _UNBOUNDED)
    return _UNBOUNDED if default is None else max(default, min_tokens)


def _cannot_use_tools() -> ApiError:
    """An answer that ignores the tools would look like a model that does not want to call any."""
    return bad_request(
        "This model cannot be offered tools: its chat template does not show them, or its way of calling them is not known. "
        'Send no `tools`, or `"tool_choice": "none"`, or serve it with --chat-template or --chat-format.',
        "tools",
        "unsupported_parameter",
    )
