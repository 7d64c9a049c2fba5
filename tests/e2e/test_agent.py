"""`tokenwell agent` against a real service whose model does what the task says: files on disk, and everything shown."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.service import Service, serve
from tests.waiting import PATIENCE_S, free_port

PROGRAM = str(Path(sys.executable).parent / "tokenwell")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("agent") / "service.log"
    with serve(Path("scripted"), log, "--chat-format=gemma4", "--api-key=sesame") as running:
        yield running


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Run:
    """run(task, *flags): the command, done in an empty folder."""
    (tmp_path / "work").mkdir()

    def start(task: str, *flags: str, url: str = service.url) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [PROGRAM, "agent", task, "--url", url, "--api-key=sesame", *flags],
            cwd=tmp_path / "work", env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    return start


def test_the_work_is_done_on_disk_and_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "work/MEMORY.md").write_text("# Memory\n")
    done = run(
        'Today. [[think rain?]][[call get_weather {"city": "上海", "date": "today"}]]'
        '[[call append_file {"path": "MEMORY.md", "content": "上海下雨"}]]'
        '[[call set_reminder {"text": "带伞", "time": "明天下午三点"}]][[say 会下雨。]]',
        "--offline",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "work/MEMORY.md").read_text() == "# Memory\n上海下雨\n"
    [reminder] = (tmp_path / "work").glob("reminder-*-1500.ics")
    assert "SUMMARY:带伞" in reminder.read_text()
    first, *lines, said, summary = done.stdout.splitlines()
    assert first.startswith("scripted at http://127.0.0.1:") and first.endswith(f"/v1, in {tmp_path}/work")
    assert [line for line in lines if line.startswith("> ")] == [
        '> get_weather {"city": "上海", "date": "today"}',
        '> append_file {"content": "上海下雨", "path": "MEMORY.md"}',
        '> set_reminder {"text": "带伞", "time": "明天下午三点"}',
    ]
    assert [line for line in lines if line.startswith("< ")] == ["< get_weather", "< append_file", "< set_reminder"]
    assert "offline fixture" in done.stdout and "rain?" in done.stdout
    assert said == "会下雨。"
    assert summary.startswith("2 turns, 3 calls, ")


def test_another_folder_and_nothing_outside_of_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    done = run(
        '[[call write_file {"path": "../work/a", "content": "x"}]][[call write_file {"path": "b", "content": "y"}]][[say .]]',
        "--folder", str(tmp_path / "notes"),
    )  # fmt: skip
    assert done.returncode == 0
    assert '{"error": "../work/a is outside of the working folder' in done.stdout
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["b"]
    assert list((tmp_path / "work").iterdir()) == []


def test_what_others_wrote_cannot_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    (tmp_path / "work/a").write_text("\x1b[2Jgone\x07")
    done = run('[[call read_file {"path": "a"}]][[say ok]]')
    assert "\x1b" not in done.stdout and "< \\x1b[2Jgone\\x07" in done.stdout


@pytest.mark.parametrize(
    ("task", "flags", "code", "said"),
    [
        ('[[call read_file {"path": "a"}]][[say ok]]', ["--max-turns=1"], 1, "not finished after 1 turns; --max-turns allows"),
        ("hi", ["--api-key=guess"], 1, "wants another API key; give one that it accepts with --api-key"),
        ("hi", ["--model=none"], 1, "refused with 404"),
        ("hi", [f"--url=127.0.0.1:{free_port()}"], 1, "Start one with: tokenwell serve"),
        ("hi", ["--folder=none"], 2, "--folder: there is no folder none"),
        ("hi", [f"--folder={'x' * 300}"], 2, "cannot be used: File name too long"),
        ("hi", ["--max-turns=0"], 2, "--max-turns is 0, but must be 1 or more"),
        ("hi", ["--url=ftp://x"], 2, "'ftp://x' is not an address"),
        (" ", [], 2, "the task is empty"),
    ],
)
def test_what_could_not_be_finished_is_no_success(run: Run, task: str, flags: list[str], code: int, said: str) -> None:
    done = run(task, *flags)
    assert done.returncode == code
    assert done.stderr.startswith("tokenwell: ") and said in done.stderr and "Traceback" not in done.stderr
