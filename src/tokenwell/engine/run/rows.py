"""What a rank remembers of the sequences that hold a slot. Changed only by StepPlans, so it is the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenwell.engine.run.mask import Constraint
from tokenwell.engine.run.penalties import Counts
from tokenwell.engine.schedule.plan import AddRow
from tokenwell.wire.sampling import Sampling


@dataclass(slots=True)
class Row:
    """One sequence in its slot."""

    slot: int
    tokens: list[int]  # prompt and output so far
    prompt_tokens: int
    sampling: Sampling
    counts: Counts | None = field(default=None)  # token counts, only for rows whose penalties need them
    constraint: Constraint | None = field(default=None)  # only for rows with a grammar

    @classmethod
    def from_plan(cls, added: AddRow) -> Row:
        """The state of a row that a plan adds."""
        return cls(added.row, list(added.tokens), added.prompt_tokens, added.sampling)
