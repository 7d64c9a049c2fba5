"""Machines written down: what was recorded is found again, and a bad recording says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.doctor.machines import NAMES, record

from tokenwell.doctor.examine import examine
from tokenwell.host.machine import LiveMachine
from tokenwell.host.recording import RecordedMachine, Recorder, read_recording
from tokenwell.host.survey import read_survey
from tokenwell.wire.errors import SettingsError


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_of_a_machine_is_the_machine(name: str) -> None:
    recorder = Recorder(RecordedMachine(record(name)))
    survey = read_survey(recorder, "/home/user/models/model", 8000)
    again = read_survey(RecordedMachine(json.loads(recorder.as_json())), "/home/user/models/model", 8000)
    assert again == survey
    assert examine(again) == examine(survey)


def test_a_recording_of_this_machine_is_this_machine(tmp_path: Path) -> None:
    recorder = Recorder(LiveMachine())
    survey = read_survey(recorder, str(tmp_path), 8000)
    again = read_survey(RecordedMachine(json.loads(recorder.as_json())), str(tmp_path), 8000)
    assert again.cards == survey.cards
    assert again.system == survey.system
    assert again.software == survey.software
    assert again.folder == survey.folder


def test_passwords_of_proxies_are_not_recorded() -> None:
    given = record("b580") | {"environment": {"http_proxy": "http://me:secret@proxy:3128"}}
    assert "secret" not in Recorder(RecordedMachine(given)).as_json()


def test_what_may_not_be_read_stays_so() -> None:
    machine = RecordedMachine({"files": {"sys/config": None, "sys/open": "1"}})
    recorder = Recorder(machine)
    assert (recorder.read("/sys/config"), recorder.read("/sys/open")) == (None, b"1")
    again = RecordedMachine(json.loads(recorder.as_json()))
    assert (again.read("/sys/config"), again.unseen) == (None, ["/sys/config"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        '{"files": []}',
        '{"nodes": {"/dev/a": {"mode": "rw"}}}',
        '{"spaces": {"/": 1}}',
        '{"user": {}}',
        '{"sizes": {"/a": "x"}}',
    ],
)
def test_a_bad_recording_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"machine\.json is no recorded machine"):
        read_recording(path)


def test_a_recording_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_recording(tmp_path / "machine.json")
