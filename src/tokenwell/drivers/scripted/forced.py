"""An answer that a grammar allows: the script where it fits, else a smallest instance found by walking the grammar.

Knows grammars by llguidance's matcher alone, and nothing of schemas.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING

from tokenwell.chat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

_SHORT_TOKENS = 2000  # more is tried only when nothing shorter was found
_CLOSING = b'}]"'  # in this order: what ends an object, a list, a text; the last one also begins a text
_FILLING = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-.:_/@+"
_OPENING = b"[{,"
_BLANK = b" \n\t\r"
_TRIES = 6


class GrammarRefused(Exception):  # noqa: N818
    """The grammar cannot be used; the message says why."""


class Forced:
    """Fits answers into grammars of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, end_id: int, last: Iterable[int]) -> None:
        """`last`: tokens to be taken only when nothing else is possible, such as those that begin a thought."""
        from llguidance import LLTokenizer  # here, because a request without a grammar does not need it

        self._tokenizer = LLTokenizer(tokenizer.encoder.to_str(), eos_token=end_id)
        self._end_id = end_id
        single = self._single = {
            spelled[0]: id for id in range(tokenizer.vocab_size) if len(spelled := tokenizer.token_bytes(id)) == 1
        }
        self._closing = [single[byte] for byte in _CLOSING]
        self._comma = single[ord(",")]  # ends a number, which digits would make longer for ever
        self._filling = [single[byte] for byte in _FILLING]
        rest = [single[byte] for byte in _OPENING] + [single[byte] for byte in range(0x21, 0x7F)]
        marks = sorted(tokenizer.special_ids - {end_id, *last})
        self._others = [*rest, *marks, *(single[byte] for byte in _BLANK), *(single[byte] for byte in range(0x80, 0x100)), *last]
        self._texts = frozenset(self._closing + self._filling + [single[byte] for byte in _OPENING])

    def matcher(self, grammar: str) -> LLMatcher:
        """A matcher at the start of the grammar. Raises GrammarRefused."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarRefused(matcher.get_error().strip())
        return matcher

    def fits(self, matcher: LLMatcher, answer: Sequence[int]) -> bool:
        """Whether the answer follows the grammar and may end there."""
        trial = matcher.deep_copy()
        return trial.try_consume_tokens(list(answer)) == len(answer) and trial.is_accepting()

    def smallest(
        self, matcher: LLMatcher, openings: Sequence[list[int]], closings: Sequence[list[int]], limit: int
    ) -> list[int] | None:
        """A small answer that the grammar allows, of at most `limit` tokens; None when none was found.

        `openings`: beginnings to try where text alone cannot begin the answer. `closings`: what is taken whole where possible.
        """
        fitting = [opening for opening in openings if opening and matcher.validate_tokens(opening) == len(opening)]
        starts = [[], *fitting] if self._texts & set(_allowed(matcher)) else [*fitting, []]
        for most in sorted({min(_SHORT_TOKENS, limit), limit}):
            for seed, start in product(range(_TRIES), starts):
                answer = self._walk(matcher, start, closings, most, seed)
                if answer is not None:
                    return answer
        return None

    def _walk(
        self, matcher: LLMatcher, start: list[int], closings: Sequence[list[int]], most: int, seed: int
    ) -> list[int] | None:
        """One walk to an accepting state. The first follows the preferences, later ones chance, so that loops are left."""
        trial = matcher.deep_copy()
        if not trial.consume_tokens(start):
            return None
        answer = list(start)
        used: Counter[int] = Counter()
        chance = random.Random(seed)
        while not trial.is_accepting():
            if trial.is_error() or len(answer) >= most:
                return None
            more = (
                trial.compute_ff_tokens()
                or [self._single[byte] for byte in trial.compute_ff_bytes()]  # forced, though not how it is cut into tokens
                or next((each for each in closings if trial.validate_tokens(each) == len(each)), [])
            )
            if not more:
                allowed = _allowed(trial) - {self._end_id}
                if not allowed:
                    return None
                more = [self._preferred(allowed, used) if seed == 0 else chance.choice(sorted(allowed))]
            used.update(more)
            answer += more
            if not trial.consume_tokens(more):
                return None
        return answer

    def _preferred(self, allowed: set[int], used: Counter[int]) -> int:
        """What ends things first; then letters and digits, each in turn; then the rest."""
        # No word of JSON begins with q: where letters and quotes may follow, a bracket would be text.
        words = self._single[ord("q")] in allowed
        in_text = words and self._closing[-1] in allowed
        ends = self._closing[-1:] if in_text else self._closing if words else [*self._closing, self._comma]
        for token in ends:
            if token in allowed:
                return token
        filling = [token for token in self._filling if token in allowed]
        if filling:
            return min(filling, key=lambda token: used[token])
        others = [token for token in self._others if token in allowed]
        return min(others, key=lambda token: used[token]) if others else min(allowed)


def _allowed(matcher: LLMatcher) -> set[int]:
    """The tokens that may come next."""
    mask = matcher.compute_bitmask()
    return {8 * place + bit for place, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1}
