"""Calls as models write them, good and bad, and the results that they see."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tokenwell.agent.toolbox import Toolbox

NOW = datetime(2026, 3, 4, 13, 20)


@pytest.fixture
def box(tmp_path: Path) -> Toolbox:
    return Toolbox(tmp_path, offline=True, clock=lambda: NOW)


def run(box: Toolbox, name: str, **arguments: object) -> Any:
    """The parsed result of one call."""
    return json.loads(box.run(name, json.dumps(arguments)))


def test_files(box: Toolbox, tmp_path: Path) -> None:
    assert run(box, "write_file", path="a.md", content="# A\n") == {"path": "a.md", "status": "written"}
    assert run(box, "append_file", path="a.md", content="带伞") == {"path": "a.md", "status": "appended"}
    assert box.run("read_file", '{"path": "a.md"}') == (tmp_path / "a.md").read_text() == "# A\n带伞\n"
    assert run(box, "read_file", path="b.md") == {"error": "there is no file b.md"}
    assert "outside of the working folder" in run(box, "read_file", path="../b.md")["error"]


def test_weather(box: Toolbox) -> None:
    assert '"condition": "light rain"' in box.run("get_weather", '{"city": "上海"}')
    assert run(box, "get_weather", city="Beijing", date="tomorrow")["date"] == "2026-03-05"
    assert run(box, "get_weather", city="Beijing", date=None)["date"] == "2026-03-04"  # null is left out


def test_reminders(box: Toolbox, tmp_path: Path) -> None:
    made = run(box, "set_reminder", text="take the umbrella", time="6 pm")
    assert made == {"text": "take the umbrella", "time": "2026-03-04 18:00", "file": "reminder-20260304-1800.ics"}
    assert "DTSTART:20260304T180000\r\n" in (tmp_path / made["file"]).read_bytes().decode()
    assert run(box, "set_reminder", text="again", time="18:00")["file"] == "reminder-20260304-1800-2.ics"
    assert "'after work' is not understood" in run(box, "set_reminder", text="x", time="after work")["error"]
    assert "is not understood; say it such as" in run(box, "set_reminder", text="x", time="2026-02-30 at 18:00")["error"]
    assert "2026-03-01 09:00 is in the past" in run(box, "set_reminder", text="x", time="2026-03-01")["error"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("remove_file", "{}", "there is no tool remove_file; there are read_file, "),
        ("read_file", '{"path": "a', 'the arguments of read_file are no JSON object: {"path": "a'),
        ("read_file", '"a.md"', "are no JSON object"),
        ("read_file", "", "are no JSON object"),
        ("read_file", '{"path": ' + "[" * 99999, "the arguments of read_file are nested too deeply"),
        ("read_file", "{}", "read_file needs path"),
        ("read_file", '{"path": null}', "read_file needs path"),
        ("read_file", '{"path": 3}', "path of read_file is to be a text, not 3"),
        ("read_file", '{"path": "\\ud800"}', "path of read_file is to be a text"),
        ("read_file", '{"path": "a", "lines": "3"}', "read_file has no parameter lines; it has path"),
    ],
)
def test_what_a_call_got_wrong_is_its_result(box: Toolbox, name: str, arguments: str, said: str) -> None:
    assert said in json.loads(box.run(name, arguments))["error"]
