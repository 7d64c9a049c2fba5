"""`tokenwell check`: whether an endpoint and its model are ready for agents, by tasks that it is given."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tokenwell.agent.endpoint import Endpoint, EndpointError
from tokenwell.cli.reach import endpoint_at
from tokenwell.cli.screen import harmless
from tokenwell.config.settings import ServerSettings
from tokenwell.readiness.report import Report
from tokenwell.readiness.run import Outcome, Work, choose
from tokenwell.readiness.task import KINDS, LANGUAGES, Task, tasks
from tokenwell.wire.errors import SettingsError

NOT_READY, UNUSABLE = 1, 2
_PATIENCE = 5  # tasks that fail one after the other because the endpoint does; then it has failed for good


@dataclass(frozen=True)
class Wish:
    """What is to be checked, and what is enough. kind and language: "" for all; tasks: of each kind and language."""

    kind: str = ""
    language: str = ""
    tasks: int | None = None
    parallel: int = 1
    threshold: float | None = None
    json: bool = False


def check(server: ServerSettings, wish: Wish, *, url: str | None, key: str | None, model: str | None) -> int:
    """Run the tasks and print what came of them; returns the exit code. Raises SettingsError for what cannot be wished."""
    chosen = _chosen(wish)
    try:
        endpoint = endpoint_at(server, url, key, model)
    except EndpointError as error:
        print(f"tokenwell: {harmless(str(error))}", file=sys.stderr)
        return UNUSABLE
    outcomes, unusable = _run(endpoint, chosen, wish)
    report = Report(outcomes, wish.threshold)
    if outcomes:
        if wish.json:
            about = {"model": endpoint.model, "endpoint": endpoint.base, "complete": len(outcomes) == len(chosen)}
            print(json.dumps(about | report.as_json(), ensure_ascii=False))
        else:
            print(harmless("\n".join(report.lines())))
    if len(outcomes) < len(chosen):
        print(f"tokenwell: stopped after {len(outcomes)} of {len(chosen)} tasks", file=sys.stderr)
    if unusable or not outcomes:
        print(f"tokenwell: {harmless(unusable) or 'there is nothing to report'}", file=sys.stderr)
        return UNUSABLE
    below = report.below()
    for line in below:
        print(f"below: {line}", file=sys.stderr)
    return NOT_READY if below or len(outcomes) < len(chosen) else 0


def _chosen(wish: Wish) -> list[Task]:
    kind = next((kind for kind in KINDS if kind == wish.kind), None)
    language = next((language for language in LANGUAGES if language == wish.language), None)
    if wish.kind and kind is None:
        raise SettingsError(f"--kind: {wish.kind!r} is none of {', '.join(KINDS)}")
    if wish.language and language is None:
        raise SettingsError(f"--language: {wish.language!r} is none of {', '.join(LANGUAGES)}")
    for flag, value in (("--tasks", wish.tasks), ("--parallel", wish.parallel)):
        if value is not None and value < 1:
            raise SettingsError(f"{flag} is {value}, but must be 1 or more")
    if wish.threshold is not None and not 0 <= wish.threshold <= 100:
        raise SettingsError(f"--threshold is {wish.threshold:g}, but must be between 0 and 100 percent")
    return choose(tasks(), kind, language, wish.tasks)


def _run(endpoint: Endpoint, chosen: Sequence[Task], wish: Wish) -> tuple[list[Outcome], str]:
    """The outcomes until the end or an interruption, and why the endpoint cannot be used if it cannot.

    Failures in a row at the end are the endpoint's, and no outcomes.
    """
    outcomes: list[Outcome] = []
    failing = 0
    started = time.monotonic()
    print(harmless(f"{len(chosen)} tasks for {endpoint.model} at {endpoint.base}"), file=sys.stderr)
    try:
        for outcome in Work(endpoint, chosen, wish.parallel):
            outcomes.append(outcome)
            failing = failing + 1 if outcome.error else 0
            if failing == min(_PATIENCE, len(chosen)):
                return outcomes[:-failing], outcome.verdict.got
            if sys.stderr.isatty():
                passed = sum(each.verdict.passed for each in outcomes)
                seconds = time.monotonic() - started
                print(f"\r{len(outcomes)}/{len(chosen)} done, {passed} passed, {seconds:.0f} s ", end="", file=sys.stderr)
    except KeyboardInterrupt:
        pass  # what was measured is printed
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
    return outcomes, ""
