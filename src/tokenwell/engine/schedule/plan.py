"""What the scheduler hands to every rank for one step, and what the device hands back. Frozen, plain data.

Rows are slots 0 .. max_num_seqs-1. A rank keeps the state of a row (tokens, page tables, sampling state) from the step that
adds it until a step that drops it, so that a running row costs a few integers a step.

Order inside a step on every rank: drops, then page copies, then adds, then the forward pass over `run`. Devices execute steps
in the order of their numbers; a plan may be made, and launched, while the step before it still runs.
"""

from __future__ import annotations

import msgspec

from tokenwell.wire.messages import TokenLogprob
from tokenwell.wire.sampling import Sampling


class AddRow(msgspec.Struct, frozen=True, array_like=True):
    """A sequence takes a slot (for the first time, or again after a preemption)."""

    row: int
    tokens: list[int]  # everything known: the prompt, then what was generated before a preemption
    prompt_tokens: int  # how many of `tokens` are the prompt
    sampling: Sampling
    pages: tuple[tuple[int, ...], ...]  # per group: the page table so far (prefix hit); NULL_PAGE where already out of the window


class RunRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tokens [start, start + count) of a row are computed in this step."""

    row: int
    start: int
    count: int
    pages: tuple[tuple[int, ...], ...]  # per group: pages appended to the row's table before the step
    sample: bool  # start + count is all that is known: the next token is sampled
    pending: bool = False  # the one token to compute is the one that the step before samples: no message tells its id


class StepPlan(msgspec.Struct, frozen=True, array_like=True):
    """One step, the same for every rank."""

    step: int
    drop: tuple[int, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()  # whole pages (source, destination), for partly shared pages
    add: tuple[AddRow, ...] = ()
    run: tuple[RunRow, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens computed in this step."""
        return sum(row.count for row in self.run)


class Sampled(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The token that a row's last position produced."""

    row: int
    token: int | None  # None: the row's grammar had ended or failed before
    logprob: TokenLogprob | None = None
    ended: bool = False  # the row's grammar allows nothing behind this
    error: str | None = None  # why the row cannot go on, in words for the client


class StepResult(msgspec.Struct, frozen=True, array_like=True):
    """What rank 0 hands back to the scheduler."""

    step: int
    sampled: tuple[Sampled, ...] = ()
    # row -> logprobs of the prompt tokens start+1 .. that this step's positions predict, in order
    prompt_logprobs: dict[int, list[TokenLogprob]] = {}
