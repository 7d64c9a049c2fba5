"""What was planned beside what came: memory and window at load, TTFT and TPOT in use. Says so when they are far apart.

Speeds are compared request by request with what the plan's own formulas say of that request, and judged by their median. A
request that had to wait for others says nothing about TTFT and is left out.
"""

from __future__ import annotations

import logging
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from tokenwell.wire.messages import Ready

OFF_BY = 0.25  # a measured value this far from the planned one is told
LEAST_SEEN = 8  # requests before a speed is judged
_REMEMBERED = 64  # latest requests whose median counts

_log = logging.getLogger("tokenwell.promise")


class Forecast(Protocol):
    """A plan's formulas for speed."""

    def ttft_ms(self, prompt_tokens: int) -> float:
        """Until the first token of a prompt of which so many tokens must be computed, on an idle engine."""
        ...

    def tpot_ms(self, rows: int, context_tokens: int) -> float:
        """A token's time with `rows` sequences of `context_tokens` at once."""
        ...


@dataclass(frozen=True)
class Planned:
    """What was promised before loading."""

    weights_bytes: int  # on each card
    kv_bytes: int  # on each card
    window_tokens: int
    ttft_ms: float  # for the case that the plan names
    tpot_ms: float
    words: str = ""  # what was chosen and why, in a sentence or two
    plan: Mapping[str, Any] = field(default_factory=dict, repr=False)  # all of it, as JSON


@dataclass(frozen=True)
class Compared:
    """One promise and what came of it; `measured` None: nothing to compare yet."""

    planned: float
    measured: float | None
    ratio: float | None  # measured over planned; of speeds, the median over requests

    @property
    def kept(self) -> bool | None:
        """Whether the two are close; None: not known yet."""
        return None if self.ratio is None else abs(self.ratio - 1) <= OFF_BY


class Promise:
    """One plan and its truth so far."""

    def __init__(self, planned: Planned, forecast: Forecast) -> None:
        self.planned = planned
        self._forecast = forecast
        self._ready: Ready | None = None
        self._ttft: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # (measured ms, ratio)
        self._tpot: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._told: dict[str, bool] = {}  # what the log was told last, by name: kept or not

    def loaded(self, ready: Ready) -> None:
        """An engine is ready: its memory and window are known."""
        self._ready = ready
        self._tell()

    def answered(
        self, *, computed_tokens: int, context_tokens: int, rows: int, ttft_s: float | None, tpot_s: float | None
    ) -> None:
        """A request ended. `computed_tokens` of its prompt were not cached; `rows` sequences ran beside and with it.

        `ttft_s` None: it waited, or its prefill was shared; `tpot_s` None: it had a single token.
        """
        if ttft_s is not None:
            self._ttft.append((1000 * ttft_s, 1000 * ttft_s / self._forecast.ttft_ms(max(1, computed_tokens))))
        if tpot_s is not None:
            self._tpot.append((1000 * tpot_s, 1000 * tpot_s / self._forecast.tpot_ms(max(1, rows), context_tokens)))
        self._tell()

    def compared(self) -> Mapping[str, Compared]:
        """Every promise by name; names end in their unit."""
        planned, ready = self.planned, self._ready
        loaded: dict[str, tuple[int, int | None]] = {
            "weights_bytes": (planned.weights_bytes, None if ready is None else ready.weights_bytes),
            "kv_bytes": (planned.kv_bytes, None if ready is None else ready.num_pages * ready.page_bytes),
            "window_tokens": (planned.window_tokens, None if ready is None else ready.max_model_len),
        }
        found = {
            name: Compared(promised, came, None if came is None or not promised else came / promised)
            for name, (promised, came) in loaded.items()
        }
        found["ttft_ms"] = _median(planned.ttft_ms, self._ttft)
        found["tpot_ms"] = _median(planned.tpot_ms, self._tpot)
        return found

    def told(self) -> dict[str, Any]:
        """The plan and the truth so far, as JSON."""
        compared = {name: {**asdict(one), "kept": one.kept} for name, one in self.compared().items()}
        return {"plan": self.planned.plan, "promises": compared}

    def _tell(self) -> None:
        """One line in the log whenever a promise is found broken, and when it is kept again."""
        for name, one in self.compared().items():
            kept = one.kept
            if kept is None or self._told.get(name, True) == kept:
                continue
            self._told[name] = kept
            if kept:
                _log.info("%s is as planned again", name)
            else:
                assert one.ratio is not None and one.measured is not None
                _log.warning(
                    "%s is %.0f %% of what was planned (planned %.4g, measured %.4g); GET /plan tells how it was counted",
                    name, 100 * one.ratio, one.planned, one.measured,
                )  # fmt: skip


def _median(planned: float, seen: deque[tuple[float, float]]) -> Compared:
    if len(seen) < LEAST_SEEN:
        return Compared(planned, None, None)
    return Compared(planned, statistics.median(ms for ms, _ in seen), statistics.median(ratio for _, ratio in seen))
