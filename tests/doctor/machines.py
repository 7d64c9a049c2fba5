"""The recorded machines in tests/machines, and variations of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenwell.doctor.examine import examine
from tokenwell.doctor.finding import Finding
from tokenwell.host.recording import RecordedMachine
from tokenwell.host.survey import Survey, read_survey

FOLDER = Path(__file__).parents[1] / "machines"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
Record = dict[str, Any]
B580 = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:03:00.0"


def record(name: str) -> Record:
    loaded: Record = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def survey_of(given: Record, folder: str | None = None) -> Survey:
    if folder is None:
        folder = next((path.rpartition("/")[0] for path in given.get("sizes", {})), "/home/user/models/model")
    return read_survey(RecordedMachine(given), folder, 8000)


def findings_of(given: Record) -> tuple[Finding, ...]:
    return examine(survey_of(given))


def changed(name: str, change: Callable[[Record], object]) -> Record:
    """A recorded machine with something else about it."""
    given = copy.deepcopy(record(name))
    for part in ("files", "links", "nodes", "folders", "programs", "environment"):
        given.setdefault(part, {})
    change(given)
    return given


def only(findings: tuple[Finding, ...], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def finding_after(name: str, check: str, change: object = None) -> Finding:
    given = changed(name, change) if callable(change) else record(name)
    return only(findings_of(given), check)


def config(control: int) -> str:
    """Configuration space with an ACS capability behind another one."""
    data = bytearray(4096)
    data[0x100:0x104] = (0x148 << 20 | 1 << 16 | 0x0001).to_bytes(4, "little")
    data[0x148:0x14C] = (1 << 16 | 0x000D).to_bytes(4, "little")
    data[0x14E:0x150] = control.to_bytes(2, "little")
    return data.hex()
