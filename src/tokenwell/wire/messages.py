"""Messages between gateway and engine: msgpack arrays, one tagged union a direction."""

from __future__ import annotations

import msgspec

from tokenwell.wire.cache import KvGroup
from tokenwell.wire.errors import RequestError
from tokenwell.wire.sampling import Sampling


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of everything that crosses the socket."""


# ---------------------------------------------------------------- gateway -> engine


class Generate(Message, frozen=True, array_like=True, tag=True):
    """Continue `prompt` (token ids) as `sampling` says. Answered by Output messages until one carries `finish`."""

    id: str
    prompt: list[int]
    sampling: Sampling


class Abort(Message, frozen=True, array_like=True, tag=True):
    """Forget this request within one step. Not answered; unknown ids are ignored."""

    id: str


class Shutdown(Message, frozen=True, array_like=True, tag=True):
    """Leave now. The gateway drains first if it wants to."""


# ---------------------------------------------------------------- engine -> gateway


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability (natural, of the raw distribution before temperature and penalties) of one token."""

    logprob: float
    top: list[tuple[int, float]] = []  # the best alternatives as (token id, logprob), best first


class Output(msgspec.Struct, frozen=True, array_like=True):
    """What one step brought one request."""

    id: str
    tokens: list[int] = []
    logprobs: list[TokenLogprob] | None = None  # one for each of `tokens`, when asked for
    prompt_logprobs: list[TokenLogprob] | None = None  # once, for prompt tokens 1.., when asked for
    cached_tokens: int = 0  # prompt tokens that came from the prefix cache
    finish: str | None = None  # "stop" | "length" | "abort" | "error"
    stop_id: int | None = None  # the stop id that ended it (also the last of `tokens`)
    error: RequestError | None = None
    kept_tokens: int = 0  # prompt tokens in the cache that could be reused if no window's state were missing


class Stats(msgspec.Struct, frozen=True, array_like=True):
    """Gauges and running totals since the engine started."""

    steps: int = 0
    running: int = 0
    waiting: int = 0
    pages_total: int = 0
    pages_active: int = 0  # held by running sequences
    pages_cached: int = 0  # free for use, but holding reusable prefixes
    preemptions: int = 0
    prompt_tokens: int = 0  # prompt tokens admitted
    cached_tokens: int = 0  # of those, served from cache
    generated_tokens: int = 0
    step_seconds: float = 0.0  # wall clock of all steps
    model_seconds: float = 0.0  # of that, the model; the rest is scheduling, messages and bookkeeping


class Outputs(Message, frozen=True, array_like=True, tag=True):
    """Everything one step brought, and the state after it."""

    items: list[Output]
    stats: Stats


class Heartbeat(Message, frozen=True, array_like=True, tag=True):
    """Sent every second by a thread of its own, so that a frozen process is silent and a stuck step is visible."""

    step_age_s: float  # how long the step in progress has been running; 0 when idle
    stage: str  # "loading" | "serving"
    quiet_s: float = 0.0  # how much later than usual the next one may come


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """An automatic choice, told once with its reason."""

    what: str
    chosen: str
    reason: str


class Ready(Message, frozen=True, array_like=True, tag=True):
    """The engine can answer; its first request will not be slower than the others."""

    architecture: str
    device: str
    dtype: str
    vocab_size: int
    max_model_len: int  # enforced: prompt and output together, in tokens
    max_num_seqs: int
    max_num_batched_tokens: int
    weights_bytes: int
    page_bytes: int
    num_pages: int
    groups: tuple[KvGroup, ...]
    load_seconds: float
    choices: list[Choice]
    max_num_mixed_tokens: int | None = None  # of a step in which rows decode; None: max_num_batched_tokens


class Fatal(Message, frozen=True, array_like=True, tag=True):
    """The engine ends itself. `retry` is False when starting it again cannot help (a broken checkpoint)."""

    message: str
    retry: bool
    apart: bool = False  # its cards cannot work together, but each may serve the whole model alone


ToEngine = Generate | Abort | Shutdown
FromEngine = Outputs | Heartbeat | Ready | Fatal
