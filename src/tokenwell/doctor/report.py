"""What a doctor's visit looks like: JSON for programs, a table for people. Decides nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tokenwell.doctor.examine import worst
from tokenwell.doctor.finding import LEVELS, Finding
from tokenwell.host.gpus import CardFacts
from tokenwell.host.survey import Survey

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"ok": "green", "unknown": "dim", "warn": "yellow", "fail": "bold red"}
_MOST_UNSEEN = 8


def as_json(survey: Survey, findings: tuple[Finding, ...]) -> str:
    """One object: the worst level, counts, every finding, the cards, and what could not be seen."""
    levels = [finding.level for finding in findings]
    report = {
        "worst": worst(findings),
        "counts": {level: levels.count(level) for level in LEVELS},
        "findings": [asdict(finding) for finding in findings],
        "cards": [_card(card) for card in survey.cards],
        "unseen": list(survey.unseen),
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def _card(card: CardFacts) -> dict[str, object]:
    return {
        "address": card.address,
        "name": card.name,
        "vendor": card.vendor,
        "family": card.family.name if card.family else None,
        "integrated": card.integrated,
        "driver": card.driver or None,
        "driver_version": card.driver_version,
        "memory_bytes": card.memory_bytes,
        "free_bytes": card.free_bytes,
        "memory_window_bytes": card.memory_window_bytes,
        "link": {
            "generation": card.link.generation,
            "lanes": card.link.width,
            "gb_s": card.link.gb_s,
            "through_chipset": card.link.through_chipset,
        },
        "numa_node": card.numa_node,
    }


def print_table(console: Console, survey: Survey, findings: tuple[Finding, ...]) -> None:
    """A row a finding, fixes below them unbroken so that they can be copied, then what could not be seen."""
    from rich.table import Table
    from rich.text import Text

    several = len(survey.working_cards) > 1
    labels = [f"{finding.check} {finding.card}" if finding.card and several else finding.check for finding in findings]
    widths = max(map(len, LEVELS)), max(map(len, labels))
    for finding, label in zip(findings, labels, strict=True):
        level = Text(finding.level.ljust(widths[0]), style=_STYLES[finding.level])
        if console.is_terminal:
            row = Table.grid(padding=(0, 2))
            row.add_column(width=widths[0])
            row.add_column(width=widths[1])
            row.add_column(overflow="fold")
            row.add_row(level, label, Text(finding.sentence))
            console.print(row)
        else:  # a line a finding, for grep
            console.print(Text.assemble(level, f"  {label.ljust(widths[1])}  {finding.sentence}"), soft_wrap=True)
        if finding.fix:
            console.print(Text(f"         $ {finding.fix}", style="cyan"), soft_wrap=True)
    counts = [f"{number} {level}" for level in reversed(LEVELS) if (number := sum(f.level == level for f in findings))]
    console.print(f"\n{', '.join(counts)}", highlight=False)
    if survey.unseen:
        shown = ", ".join(survey.unseen[:_MOST_UNSEEN])
        more = f" and {len(survey.unseen) - _MOST_UNSEEN} more" if len(survey.unseen) > _MOST_UNSEEN else ""
        console.print(f"This user may not see: {shown}{more}", highlight=False, markup=False, soft_wrap=True)
