"""What was measured, counted and printed. Pure: outcomes in, lines out."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwell.agent.endpoint import per_token_s
from tokenwell.readiness.run import Answer, Outcome
from tokenwell.readiness.task import KINDS, LANGUAGES, Kind, Language

THRESHOLDS: dict[Kind, float] = {"single": 95.0, "turns": 90.0, "talk": 95.0}  # percent of the tasks, in each language
_FAILURES = 6
_SHOWN = 400  # characters of what was said, expected and got


@dataclass(frozen=True)
class Share:
    """How many of some tasks passed."""

    passed: int
    total: int

    @property
    def percent(self) -> float:
        return 100.0 * self.passed / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.passed}/{self.total} {self.percent:5.1f} %" if self.total else "-"


@dataclass(frozen=True)
class Report:
    """All outcomes of one run, those measured so far."""

    outcomes: Sequence[Outcome]
    threshold: float | None = None  # percent, for every kind instead of THRESHOLDS

    def share(self, kind: Kind, language: Language | None = None, category: str | None = None) -> Share:
        found = [
            outcome.verdict.passed
            for outcome in self.outcomes
            if outcome.task.kind == kind
            and language in (None, outcome.task.language)
            and category in (None, outcome.task.category)
        ]
        return Share(sum(found), len(found))

    @property
    def malformed(self) -> int:
        return sum(outcome.verdict.malformed for outcome in self.outcomes)

    def below(self) -> list[str]:
        """What is not good enough, one line each; empty when the model is ready."""
        found = []
        for kind, name in KINDS.items():
            wanted = THRESHOLDS[kind] if self.threshold is None else self.threshold
            for language, spoken in LANGUAGES.items():
                share = self.share(kind, language)
                if share.total and share.percent < wanted:
                    found.append(f"{name}, {spoken}: {share.percent:.1f} % of {share.total}, wanted {wanted:g} %")
        if self.malformed:
            found.append(f"{self.malformed} malformed call{'' if self.malformed == 1 else 's'}, wanted none")
        return found

    # -------------------------------------------------------------------------------- for people

    def lines(self) -> list[str]:
        """The whole report."""
        return [*self._table(), "", *self._speed(), *self._categories(), *self._failures()]

    def _table(self) -> list[str]:
        lines = [f"{'':18}{'English':>18}{'Chinese':>18}{'both':>18}"]
        for kind, name in KINDS.items():
            if self.share(kind).total:
                cells = [self.share(kind, "en"), self.share(kind, "zh"), self.share(kind)]
                lines.append(f"{name:18}" + "".join(f"{cell!s:>18}" for cell in cells))
        malformed = Counter[str]()
        for outcome in self.outcomes:
            malformed[outcome.task.language] += outcome.verdict.malformed
        lines.append(f"{'malformed calls':18}{malformed['en']:>18}{malformed['zh']:>18}{malformed.total():>18}")
        return lines

    def _speed(self) -> list[str]:
        answers = [answer for outcome in self.outcomes for answer in outcome.answers]
        streamed = [answer for answer in answers if answer.streamed]
        lines = []
        if streamed:
            lines.append(f"{'time to first token':22}{_spread(_ttft_ms(streamed), 'ms')}")
            lines.append(f"{'time per token':22}{_spread(_tpot_ms(streamed), 'ms')}")
        for name, some in (("answer, streamed", streamed), ("answer, whole", [one for one in answers if not one.streamed])):
            if some:
                lines.append(f"{name:22}{_spread([answer.seconds * 1000 for answer in some], 'ms')}")
        read, written = sum(answer.prompt_tokens for answer in answers), sum(answer.tokens for answer in answers)
        tokens = f"{read:,} read, {written:,} written" if read or written else "not known"
        lines.append(f"{'tokens':22}{tokens}, in {len(answers):,} answers")
        if errors := [outcome for outcome in self.outcomes if outcome.error]:
            failed = f"failed {len(errors)} of {len(self.outcomes)} tasks, at last: {_short(errors[-1].verdict.got)}"
            lines.append(f"{'the endpoint':22}{failed}")
        return lines

    def _categories(self) -> list[str]:
        """Those in which something failed."""
        named = dict.fromkeys((outcome.task.kind, outcome.task.category) for outcome in self.outcomes)
        shares = [(kind, category, self.share(kind, category=category)) for kind, category in named]
        lines = [
            f"  {KINDS[kind] + ': ' + category:40}{share!s:>18}" for kind, category, share in shares if share.passed < share.total
        ]
        return ["", "where something failed:", *lines] if lines else []

    def _failures(self) -> list[str]:
        failed = [outcome for outcome in self.outcomes if not outcome.verdict.passed]
        lines: list[str] = []
        for outcome in _spread_over_kinds(failed)[:_FAILURES]:
            task = outcome.task
            lines += ["", f"{task.id} ({task.category})"]
            lines += [f"  user:     {_short(turn.user)}" for turn in task.turns]
            lines += [f"  expected: {_short(outcome.verdict.expected)}", f"  got:      {_short(outcome.verdict.got)}"]
        if len(failed) > _FAILURES:
            lines += ["", f"and {len(failed) - _FAILURES} more failures (--json has them all)"]
        return lines

    # -------------------------------------------------------------------------------- for programs

    def as_json(self) -> dict[str, Any]:
        answers = [answer for outcome in self.outcomes for answer in outcome.answers]
        streamed = [answer for answer in answers if answer.streamed]
        return {
            "tasks": self._shares(),
            "malformed": self.malformed,
            "ttft_ms": _quantiles(_ttft_ms(streamed)),
            "tpot_ms": _quantiles(_tpot_ms(streamed)),
            "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
            "tokens": sum(answer.tokens for answer in answers),
            "answers": len(answers),
            "errors": sum(outcome.error for outcome in self.outcomes),
            "below": self.below(),
            "failures": [
                {
                    "task": outcome.task.id,
                    "category": outcome.task.category,
                    "user": [turn.user for turn in outcome.task.turns],
                    "expected": outcome.verdict.expected,
                    "got": outcome.verdict.got,
                }
                for outcome in self.outcomes
                if not outcome.verdict.passed
            ],
        }

    def _shares(self) -> dict[str, dict[str, dict[str, int]]]:
        return {
            kind: {
                language: {"passed": share.passed, "total": share.total}
                for language in LANGUAGES
                for share in (self.share(kind, language),)
            }
            for kind in KINDS
        }


def _ttft_ms(answers: Iterable[Answer]) -> list[float]:
    """Without the empty answers, which have no first token."""
    return [answer.first_s * 1000 for answer in answers if answer.first_s]


def _tpot_ms(answers: Iterable[Answer]) -> list[float]:
    """Between two tokens, of the answers of which that is known."""
    each = [per_token_s(answer.tokens, answer.first_s, answer.seconds) for answer in answers]
    return [seconds * 1000 for seconds in each if seconds is not None]


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """The median, and the smallest value that 95 % of all do not exceed."""
    if not values:
        return None
    p95 = sorted(values)[math.ceil(len(values) * 0.95) - 1]
    return {"median": round(statistics.median(values), 3), "p95": round(p95, 3)}


def _spread(values: Sequence[float], unit: str) -> str:
    found = _quantiles(values)
    return "not known" if found is None else f"median {found['median']:.1f} {unit}, p95 {found['p95']:.1f} {unit}"


def _spread_over_kinds(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The same outcomes; the first of every kind and language come first."""
    seen = Counter[tuple[Kind, Language]]()
    ranked = []
    for outcome in outcomes:
        key = (outcome.task.kind, outcome.task.language)
        ranked.append((seen[key], outcome))
        seen[key] += 1
    return [outcome for _, outcome in sorted(ranked, key=lambda pair: pair[0])]


def _short(text: str) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."
