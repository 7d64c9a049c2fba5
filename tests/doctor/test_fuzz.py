"""Machines that are broken, odd or shut: what cannot be read is unknown, never an exception."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doctor.machines import NAMES, findings_of, record, survey_of

from tokenwell.doctor.examine import examine
from tokenwell.doctor.report import as_json
from tokenwell.host.recording import RecordedMachine
from tokenwell.host.survey import read_survey

_ODD = st.one_of(
    st.none(),  # may not be read
    st.binary(max_size=40).map(lambda data: {"hex": data.hex()}),
    st.text(max_size=40),
    st.sampled_from(["", "\n", "-1", "0", "9" * 60, "0x", "0xffffffffffffffffffff", "Unknown", "nan", "1.5", "NaN GT/s", "255"]),
)


def _each(tree: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        name: _each(content, change) if isinstance(content, dict) and "hex" not in content else change(content)
        for name, content in tree.items()
    }


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(data=st.data())
def test_files_with_anything_in_them(name: str, data: st.DataObject) -> None:
    given = copy.deepcopy(record(name))
    chance = data.draw(st.sampled_from([1, 2, 8]))

    def change(content: Any) -> Any:
        if data.draw(st.integers(1, chance)) > 1:
            return content
        cut = isinstance(content, str) and data.draw(st.booleans())
        return content[: data.draw(st.integers(0, len(content)))] if cut else data.draw(_ODD)

    given["files"] = _each(given["files"], change)
    given["programs"] = _each(given.get("programs", {}), lambda output: output[: data.draw(st.integers(0, len(output)))])
    survey = survey_of(given)
    json.loads(as_json(survey, examine(survey)))


@pytest.mark.parametrize("name", NAMES)
def test_files_that_nobody_may_read(name: str) -> None:
    given = copy.deepcopy(record(name))
    given["files"] = _each(given["files"], lambda _: None)
    given["nodes"], given["programs"], given["spaces"] = {}, {}, {}
    survey = survey_of(given)
    levels = {finding.check: finding.level for finding in examine(survey)}
    assert survey.unseen
    unseen = {"system", "cards", "cpu_clock", "memory", "shared_memory", "locked_memory", "huge_pages", "disk_space", "port"}
    assert {check for check in unseen if levels.get(check, "unknown") != "unknown"} <= {"cards"}


def test_a_machine_of_which_nothing_is_known() -> None:
    findings = examine(read_survey(RecordedMachine({}), "/nowhere", 8000))
    levels = {finding.check: finding.level for finding in findings}
    assert levels.pop("torch") == "fail"  # this Python has none
    assert {check for check, level in levels.items() if level == "ok"} == {"variables", "container", "proxy"}
    assert set(levels.values()) == {"ok", "unknown"}


@given(
    smi=st.text(st.characters(codec="ascii"), max_size=200),
    topo=st.lists(st.sampled_from(["GPU0", "GPU1", "GPU999", "X", "OK", "NV4", "\t", "\n", " ", "\x1b[4m"]), max_size=30),
)
def test_programs_that_print_anything(smi: str, topo: list[str]) -> None:
    given = copy.deepcopy(record("a100"))
    for command in given["programs"]:
        given["programs"][command] = "".join(topo) if "topo" in command else smi
    findings_of(given)


def test_links_in_circles() -> None:
    given = copy.deepcopy(record("b580"))
    given["links"] = {"/sys/bus/pci/devices/0000:03:00.0": "/sys/a", "/sys/a": "/sys/b", "/sys/b": "/sys/a/c"}
    findings_of(given)
