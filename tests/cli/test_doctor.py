"""`tokenwell doctor` as a program: output, exit codes, time, and what it must not load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.waiting import PATIENCE_S

MACHINES = Path(__file__).parents[1] / "machines"


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("tokenwell")), "doctor", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={"HOME": "/nowhere", "PATH": "/usr/bin:/bin"} | environment
    )


def test_this_machine_is_examined_quickly_and_without_a_traceback() -> None:
    start = time.perf_counter()
    ended = _run("--json")
    elapsed_s = time.perf_counter() - start
    assert ended.returncode in (0, 1)
    assert ended.stderr == ""
    report = json.loads(ended.stdout)
    assert {"worst", "counts", "findings", "cards", "unseen"} <= set(report)
    assert ended.returncode == (report["worst"] == "fail")
    assert elapsed_s < PATIENCE_S  # well below 2 s on a machine that does nothing else


def test_it_loads_neither_torch_nor_the_service() -> None:
    program = (
        "import sys\nfrom tokenwell.cli.main import app\n"
        "try:\n    app(['doctor', '--json'])\nexcept SystemExit:\n    pass\n"
        "unwanted = {'torch', 'numpy', 'starlette', 'uvicorn', 'rich'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & unwanted), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stderr == "[]\n"


@pytest.mark.parametrize(
    ("name", "code"), [("b580", 0), ("b580-x1", 0), ("b580-small-window", 1), ("b580-old-kernel", 1), ("two-a770", 1)]
)
def test_the_exit_code_says_whether_something_fails(name: str, code: int) -> None:
    assert _run("--machine", str(MACHINES / f"{name}.json")).returncode == code


def test_people_get_a_table_and_commands_that_can_be_copied() -> None:
    lines = _run("--machine", str(MACHINES / "two-a770.json")).stdout.splitlines()
    assert "         $ sudo tokenwell doctor" in lines
    assert '         $ export NO_PROXY="localhost,127.0.0.1,::1${NO_PROXY:+,$NO_PROXY}"; export no_proxy="$NO_PROXY"' in lines
    assert any(line.split()[:3] == ["warn", "pcie_link", "0000:03:00.0"] for line in lines)
    assert lines[-1].startswith("1 fail, ")


def test_the_port_is_that_of_the_settings() -> None:
    machine = str(MACHINES / "two-a770.json")
    ports = [
        _run("--json", "--machine", machine, "--port", "9000"),
        _run("--json", "--machine", machine, TOKENWELL_SERVER_PORT="9001"),
    ]
    sentences = [f["sentence"] for ended in ports for f in json.loads(ended.stdout)["findings"] if f["check"] == "port"]
    assert sentences == ["Port 9000 is free.", "Port 9001 is free."]


def test_a_recording_can_be_examined_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    here = json.loads(_run("--json", "--record", str(path), CCL_ALLREDUCE="ring", SECRET_TOKEN="hidden").stdout)
    there = json.loads(_run("--json", "--machine", str(path)).stdout)
    assert [finding["check"] for finding in there["findings"]] == [finding["check"] for finding in here["findings"]]
    assert "hidden" not in path.read_text()
    assert "CCL_ALLREDUCE" in path.read_text()


def test_bad_recordings_are_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "machine.json"
    path.write_text("{")
    for arguments in (["--machine", str(path)], ["--machine", "/nowhere.json"], ["--record", "/nowhere/x.json"]):
        ended = _run(*arguments)
        assert ended.returncode == 2
        assert ended.stderr.startswith("tokenwell: ")
        assert ended.stderr.count("\n") == 1


def test_a_folder_with_the_files_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('PRETTY_NAME="Another Linux"\n')
    report = json.loads(_run("--json", "--machine", str(tmp_path)).stdout)
    sentences = {finding["check"]: finding["sentence"] for finding in report["findings"]}
    assert sentences["system"] == "Another Linux, Linux of unknown release."
    assert {finding["check"]: finding["level"] for finding in report["findings"]}["shared_memory"] == "unknown"
