"""`tokenwell check` as a user runs it: against a real service, against a model that does everything right, against nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.service import Service, serve
from tests.readiness.perfect import Perfect
from tests.waiting import PATIENCE_S, free_port

from tokenwell.readiness.task import tasks


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokenwell", "check", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve(Path("scripted"), tmp_path_factory.mktemp("check") / "log", "--chat-format=gemma4") as service:
        yield service


def test_a_service_that_only_talks_is_ready_for_small_talk(scripted: Service) -> None:
    done = check(scripted.url, "--kind", "talk", "--tasks", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split().count("2/2") == 2 and "4/4 100.0 %" in done.stdout
    assert "time to first token" in done.stdout


def test_a_service_that_only_talks_is_not_ready_for_tools(scripted: Service) -> None:
    done = check(scripted.url, "--kind", "single", "--tasks", "2", "--parallel", "2")
    assert done.returncode == 1
    assert "expected: " in done.stdout and "got: " in done.stdout
    assert "below: single calls, English: 0.0 % of 2, wanted 95 %" in done.stderr


def test_a_lower_threshold_is_enough(scripted: Service) -> None:
    assert check(scripted.url, "--kind", "single", "--tasks", "1", "--threshold", "0").returncode == 0


def test_a_perfect_model_is_ready() -> None:
    with Perfect(tasks()) as perfect:
        done = check(perfect.base, "--tasks", "2", "--parallel", "2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["model"] == "perfect" and told["complete"] is True and told["below"] == []


def test_where_nobody_answers_it_says_what_to_do() -> None:
    done = check(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "tokenwell serve" in done.stderr


def test_an_endpoint_that_refuses_everything_cannot_be_used() -> None:
    with Perfect(tasks(), lambda message: None) as perfect:
        done = check(perfect.base, "--kind", "single")
    assert done.returncode == 2
    assert "out of order" in done.stderr
    assert len(perfect.requests) < 20


def test_a_few_tasks_that_all_failed_say_nothing_about_the_model() -> None:
    with Perfect(tasks(), lambda message: None) as perfect:
        done = check(perfect.base, "--kind", "talk", "--tasks", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "stopped after 0 of 2 tasks" in done.stderr and "out of order" in done.stderr


def test_an_endpoint_that_dies_half_way_is_not_taken_for_a_bad_model() -> None:
    answered: list[int] = []

    def dying(message: dict[str, object]) -> dict[str, object] | None:
        answered.append(1)
        return message if len(answered) <= 8 else None

    with Perfect(tasks(), dying) as perfect:
        done = check(perfect.base, "--kind", "talk")
    assert done.returncode == 2
    assert "8/8 100.0 %" in done.stdout
    assert "stopped after 8 of 100 tasks" in done.stderr and "out of order" in done.stderr
    assert len(perfect.requests) < 20


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    with Perfect(tasks(), lambda message: {"role": "assistant", "content": "\x1b[2J\ud83d"}) as perfect:
        done = check(perfect.base, "--kind", "single", "--tasks", "1")
    assert done.returncode == 1 and "\x1b" not in done.stdout
    assert "got:      \\x1b[2J\ufffd" in done.stdout


@pytest.mark.parametrize("wish", [("--kind", "double"), ("--language", "fr"), ("--tasks", "0"), ("--threshold", "120")])
def test_what_cannot_be_wished(wish: tuple[str, str]) -> None:
    done = check(*wish)
    assert done.returncode == 2
    assert wish[0] in done.stderr


def test_an_interrupted_check_prints_what_it_measured() -> None:
    def slowly(message: dict[str, object]) -> dict[str, object]:
        time.sleep(0.05)
        return message

    with Perfect(tasks(), slowly) as perfect:
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenwell", "check", perfect.base],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(perfect.requests) < 4:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "single calls" in out
    assert "stopped after" in error


def test_the_bundled_model_calls_tools_that_it_has_never_seen(tmp_path: Path) -> None:
    """97 of 100 (docs/log.md), less what chance takes from so few tasks; check itself asks for 95."""
    with serve(None, tmp_path / "log") as service:
        done = check(service.url, "--kind", "single", "--tasks", "12", "--threshold", "70")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "malformed" not in done.stderr
