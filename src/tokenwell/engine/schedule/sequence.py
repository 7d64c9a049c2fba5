"""The one mutable record of a request: its tokens, how many are computed, its pages and its status.

Owns state, decides nothing: `scheduler` moves it along and `blocks` fills its tables.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field

from tokenwell.engine.schedule.prefix import Node
from tokenwell.wire.messages import TokenLogprob
from tokenwell.wire.sampling import Sampling


class Status(enum.Enum):
    """Where a sequence is. Never inferred from counts."""

    WAITING = "waiting"  # in the queue: new, or preempted
    RUNNING = "running"  # has a row and pages
    CLOSING = "closing"  # has given both back: the step in flight samples the last token that it may have
    ENDED = "ended"  # finished or aborted


@dataclass(slots=True, eq=False)
class Table:
    """The pages of one sequence in one group. Page i holds tokens [i * page_tokens, (i + 1) * page_tokens)."""

    pages: list[int] = field(default_factory=list)  # NULL_PAGE below `first`
    nodes: list[Node] = field(default_factory=list)  # the trie path of the pages that are computed whole
    first: int = 0  # index of the first page that is still held

    @property
    def held(self) -> int:
        """Pages that the sequence holds in this group."""
        return len(self.pages) - self.first


@dataclass(slots=True, eq=False)
class Sequence:
    """One request from arrival to end."""

    id: str
    sampling: Sampling
    arrival: int  # 0, 1, ...: the smaller, the older
    tokens: array[int]  # array("I"): the prompt, then what was generated
    prompt_tokens: int
    limit: int  # the sequence has ended when it is this long: max_tokens and max_model_len
    status: Status = Status.WAITING
    computed: int = 0  # tokens whose keys and values are in the cache, or will be once the steps in flight are done
    pending: int = 0  # 1: one more token is being sampled by a step in flight, and another step may be planned on it
    row: int = -1  # slot while running
    cached: int | None = None  # prompt tokens that its first admission took from the prefix cache; None before that
    kept: int = 0  # prompt tokens that layers without a window could have taken at its last admission
    prompt_logprobs: list[TokenLogprob] | None = None  # collected so far; None: not wanted, or sent
    leader: Sequence | None = None  # an older sequence that is computing the first `shared` tokens of this one
    shared: int = 0

    # Kept by `blocks` while running.
    tables: tuple[Table, ...] = ()
    capacity: int = 0  # tokens that the tables have pages for
    mark: int = 0  # when `computed` reaches this, a page is full or falls out of a window
    keep: set[int] = field(default_factory=set)  # positions where another sequence may branch off

    @property
    def length(self) -> int:
        """All tokens, the pending one included."""
        return len(self.tokens) + self.pending

    def todo(self) -> int:
        """Tokens that are known or pending and not computed yet."""
        return len(self.tokens) + self.pending - self.computed
