"""How many prompt tokens a step takes beside rows that decode, so that those do not wait long for their next token.

A long step is fast for prompts and a pause for everybody else: 8,192 tokens take an H200 0.1 s and a small card seconds. What a
step takes is learned from steps as they come. Knows counts and seconds, no clock.
"""

from __future__ import annotations

PAUSE_S = 0.1  # that prompts may add to a step of rows that decode, or as long again as that step takes
_LEAST = 16  # tokens, whatever they take
_MEMORY = 0.85  # of what was learned, that is left one step later
_STALL = 2.0  # times what was expected; kernels that are compiled on the way are not the pace
_TRUST = 0.1  # in the time of steps without prompts, as if a tenth of a step had been seen


class Pace:
    """Learns seconds = fixed + tokens * each from steps with prompts, by least squares that forget."""

    def __init__(self) -> None:
        self._alone = 0.0  # seconds of a step without prompts
        # Weighted sums over steps with prompts of 1, tokens, tokens^2, seconds and seconds * tokens.
        self._sums = [0.0] * 5

    def note(self, tokens: int, seconds: float) -> None:
        """A step whose prompts had so many tokens together, 0 for one that only decoded, has taken `seconds`."""
        if not tokens:
            if self._alone:
                seconds = self._alone + (1 - _MEMORY) * (min(seconds, _STALL * self._alone) - self._alone)
            self._alone = seconds
            return
        if self._sums[0]:
            fixed, each = self._line()
            expected = fixed + tokens * each
            if seconds < expected / _STALL:
                self._sums = [0.0] * 5  # what was learned was a stall
            seconds = min(seconds, expected * _STALL)
        new = (1.0, tokens, tokens * tokens, seconds, seconds * tokens)
        self._sums = [_MEMORY * old + one for old, one in zip(self._sums, new, strict=True)]

    def tokens(self, most: int) -> int:
        """Prompt tokens of the next step, `most` at most: it adds a pause, or as long again as a step takes anyway."""
        if not self._sums[0]:
            return most
        fixed, each = self._line()
        room = max(self._alone + max(PAUSE_S, self._alone) - fixed, fixed)
        return most if each * most <= room else max(min(_LEAST, most), int(room / each))

    def _line(self) -> tuple[float, float]:
        """Seconds that a step with prompts takes anyway, and for each token."""
        count, once, twice, seconds, product = self._sums
        # (count + trust) fixed + once each = seconds + trust alone; once fixed + twice each = product
        spread = (count + _TRUST) * twice - once * once
        fixed = ((seconds + _TRUST * self._alone) * twice - once * product) / spread
        return (fixed, max(0.0, (product - once * fixed) / twice)) if fixed > 0 else (0.0, product / twice)
