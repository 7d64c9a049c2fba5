"""From a client's wishes to resolved Sampling: request over the model's defaults, limits of the vocabulary checked.

Knows neither HTTP nor the engine.
"""

from __future__ import annotations

import math
import secrets

from tokenwell.api.errors import bad_request
from tokenwell.api.wishes import Wishes
from tokenwell.chat.model import ChatModel
from tokenwell.service.generation import StopRules
from tokenwell.wire.sampling import Sampling

_GREEDY_BELOW = 1e-5  # dividing logits by less overflows; vLLM draws the same line
_MASK64 = 2**64 - 1


def sampling_of(
    request: Wishes,
    model: ChatModel,
    vocab_size: int,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    grammar: str | None = None,
) -> Sampling:
    """Sampling of the first choice. Raises ApiError 400 naming the field at fault."""
    defaults = model.defaults
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise bad_request(
            f"`min_tokens` ({min_tokens}) is larger than `max_tokens` ({max_tokens}).", "min_tokens", "invalid_value"
        )
    temperature = _chosen(request.temperature, defaults.temperature)
    own_stops = _stop_token_ids(request, vocab_size)
    return Sampling(
        temperature=0.0 if temperature < _GREEDY_BELOW else temperature,
        top_p=_chosen(request.top_p, defaults.top_p),
        top_k=_top_k(request.top_k if request.top_k is not None else defaults.top_k, vocab_size),
        min_p=_chosen(request.min_p, defaults.min_p),
        presence_penalty=_chosen(request.presence_penalty, 0.0),
        frequency_penalty=_chosen(request.frequency_penalty, 0.0),
        repetition_penalty=_chosen(request.repetition_penalty, defaults.repetition_penalty),
        logit_bias=_logit_bias(request, vocab_size) | _suppressed(model, vocab_size),
        # Drawn here and not in the engine, so that a replay on another engine gives the same tokens.
        seed=request.seed if request.seed is not None else secrets.randbits(63),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_ids=tuple(sorted(own_stops if request.ignore_eos else own_stops | set(defaults.stop_ids))),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        grammar=grammar,
    )


def stop_rules(request: Wishes) -> StopRules:
    """What ends the text beside the model's own stop ids."""
    stop = request.stop
    strings = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    return StopRules(strings, frozenset(request.stop_token_ids or ()), bool(request.include_stop_str_in_output))


def seed_of_choice(seed: int, index: int) -> int:
    """Seed of choice `index`: the request's own for the first, mixed ones for the others (splitmix64, Steele et al. 2014)."""
    if index == 0:
        return seed
    mixed = (seed + index * 0x9E3779B97F4A7C15) & _MASK64
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK64
    return (mixed ^ (mixed >> 31)) >> 1  # stays inside int64


def check_token_ids(ids: list[int], vocab_size: int, param: str) -> None:
    """Raise ApiError 400 when an id is none of the model's."""
    if ids and (max(ids) >= vocab_size or min(ids) < 0):
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise bad_request(
            f"Token id {wrong} in `{param}` is outside the vocabulary (0 to {vocab_size - 1}).", param, "invalid_value"
        )


def _chosen(wanted: float | None, default: float) -> float:
    return float(default if wanted is None else wanted)


def _top_k(wanted: int, vocab_size: int) -> int:
    return 0 if wanted < 0 or wanted >= vocab_size else wanted


def _stop_token_ids(request: Wishes, vocab_size: int) -> set[int]:
    ids = request.stop_token_ids or []
    check_token_ids(ids, vocab_size, "stop_token_ids")
    return set(ids)


def _suppressed(model: ChatModel, vocab_size: int) -> dict[int, float]:
    """What the checkpoint says must never be sampled; no bias of a request outweighs it."""
    return {token: -math.inf for token in model.defaults.suppress_tokens if token < vocab_size}


def _logit_bias(request: Wishes, vocab_size: int) -> dict[int, float]:
    biases: dict[int, float] = {}
    for text, bias in (request.logit_bias or {}).items():
        if not (text.isascii() and text.isdecimal()) or len(text) > 10:
            raise bad_request(f"`logit_bias` has the key `{text[:40]}`, which is not a token id.", "logit_bias", "invalid_value")
        check_token_ids([int(text)], vocab_size, "logit_bias")
        biases[int(text)] = float(bias)
    return biases
