"""Which tokens a row's grammar allows next, found out while an accelerator computes the logits that they are for.

A mask has one bit a token, set for allowed ones. Owns matchers and masks; knows neither plans nor how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from tokenwell.engine.run.grammar import Grammars, complaint

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher


class Constraint:
    """Where one row stands in its grammar."""

    def __init__(self, matcher: LLMatcher, stop_ids: Sequence[int]) -> None:
        """`matcher` stands at the first token that is not known yet, and is the row's own."""
        self.matcher = matcher
        self.stop_ids = stop_ids
        self.may_end = False  # at the mask that was computed last
        self.ended = matcher.is_stopped() and not matcher.is_error()  # nothing may follow
        self.error = f"The grammar does not allow what was generated: {complaint(matcher)}" if matcher.is_error() else None

    @property
    def over(self) -> bool:
        """No token may be chosen any more."""
        return self.ended or self.error is not None

    def take(self, token: int) -> None:
        """Go on by a token that the last mask allows."""
        if self.may_end and token in self.stop_ids:
            self.ended = True
        elif not self.matcher.consume_token(token):
            self.error = f"The grammar cannot be followed any further: {complaint(self.matcher)}"
        else:
            self.ended = self.matcher.is_stopped()


@dataclass(frozen=True, slots=True)
class Mask:
    """What the rows of one step must not take."""

    places: list[int]  # the constrained rows' places among the rows that are sampled
    bits: np.ndarray  # [places, ceil(vocabulary / 8)] uint8, least significant bit first

    def barrier(self, vocabulary: int, device: torch.device) -> torch.Tensor:
        """[places, vocabulary] float32, to be added to logits: 0 for allowed tokens, -inf for the others."""
        octets = torch.from_numpy(self.bits).to(device)
        # Eight tokens at once from a table, and an addition: faster than shifting and filling on every device.
        return _table(device)[octets.flatten().int()].view(len(self.places), -1)[:, :vocabulary]


class Masks:
    """Computes masks, many rows in parallel."""

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._last = 0xFF >> -grammars.width % 8  # of the last byte's bits those that are tokens

    def constrain(self, grammar: str, stop_ids: Sequence[int], output: list[int]) -> Constraint:
        """A row's constraint after `output`. The grammar is compiled here if it is not remembered any more."""
        matcher = self._grammars.submit(grammar).result().deep_copy()
        if output:
            matcher.consume_tokens(output)
        return Constraint(matcher, stop_ids)

    def compute(self, rows: Sequence[Constraint | None]) -> Mask | None:
        """The mask of those rows that have a constraint; None if none has. An accelerator computes logits meanwhile."""
        constrained = [(place, row) for place, row in enumerate(rows) if row is not None]
        return self._compute(constrained) if constrained else None

    @cached_property
    def _executor(self) -> LLExecutor:
        from llguidance import LLExecutor

        return LLExecutor()

    def _compute(self, constrained: Sequence[tuple[int, Constraint]]) -> Mask:
        tokenizer, end = self._grammars.tokenizer
        words = np.zeros((len(constrained), -(-tokenizer.vocab_size // 32)), dtype="<u4")
        matchers = [(row.matcher, index) for index, (_, row) in enumerate(constrained) if not row.over]
        if matchers:
            self._executor.unsafe_compute_mask_ptr(matchers, words.ctypes.data, words.shape[1] * 4, len(constrained))
        octets = words.view(np.uint8)
        may_end = (octets[:, end // 8] >> end % 8 & 1).astype(bool).tolist()
        octets[:, end // 8] &= 0xFF ^ 1 << end % 8  # a model with logits behind its tokens has one here
        bits = octets[:, : -(-self._grammars.width // 8)]
        bits[:, -1] &= self._last
        for (_, row), octet, ends in zip(constrained, bits, may_end, strict=True):
            self._settle(row, octet, ends)
        return Mask([place for place, _ in constrained], np.ascontiguousarray(bits))

    def _settle(self, row: Constraint, bits: np.ndarray, may_end: bool) -> None:
        """Allow stop ids where the grammar may end. A row that is over may take anything: its token is not used."""
        row.may_end = may_end
        if not row.over and row.matcher.is_error():
            row.error = f"The grammar cannot be followed any further: {complaint(row.matcher)}"
        if may_end:
            for id in row.stop_ids:
                bits[id // 8] |= 1 << id % 8
        if not row.over and not bits.any():
            row.ended = may_end
            row.error = None if may_end else "The grammar allows no token that the model has."
        if row.over:
            bits[:] = 0xFF


@cache
def _table(device: torch.device) -> torch.Tensor:
    """[256, 8] float32: for every byte and bit 0 where the bit is set, else -inf."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.where(torch.from_numpy(bits).bool(), 0.0, -torch.inf).to(device)
