"""`tokenwell plan` as people and programs call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.plan.configs import path_of
from tests.waiting import PATIENCE_S

PROGRAM = str(Path(sys.executable).parent / "tokenwell")


def plan(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "plan", *arguments], cwd=home, env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, capture_output=True,
        text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def test_people_read_tables(tmp_path: Path) -> None:
    done = plan(str(path_of("Llama-3.1-8B-Instruct")), "--gpu", "a770x2", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 replicas, one on each of 2 Arc A770" in done.stdout.splitlines()[0]
    for words in ("window", "one card's memory", "weights", "layout", "chosen", "every layer shared by 2 Arc A770"):
        assert words in done.stdout


def test_programs_read_json(tmp_path: Path) -> None:
    done = plan(str(path_of("gpt-oss-20b")), "--gpu", "NVIDIA H200", "--batch", "64", "--json", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["layout"]["gpus"] == ["H200"]
    assert told["speed"]["batch"] == 64


def test_every_number_is_explained(tmp_path: Path) -> None:
    done = plan(str(path_of("Qwen3-8B")), "--gpu", "4090", "--explain", home=tmp_path)
    assert "GB/s" in done.stdout
    assert "decode" in done.stdout
    assert "prefill" in done.stdout


def test_this_machine_is_planned_for_without_a_card_being_named(tmp_path: Path) -> None:
    done = plan(str(path_of("Qwen3-0.6B")), "--device", "cpu", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["speed"]["tpot_ms"] > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no nowhere"),
        (["MODEL", "--gpu", "rtx 4091"], "RTX 4090"),
        (["MODEL", "--gpu", "4090", "--engine", "vllm==0.3"], "0.19"),
        (["MODEL", "--gpu", "4090", "--engine", "magic"], "magic"),
        (["MODEL", "--gpu", "4090", "--max-model-len", "999999999"], "max-model-len"),
        (["MODEL", "--gpu", "4090", "--goal", "fame"], "goal"),
        (["MODEL", "--gpu", "3060", "--quantization", "none", "--strict"], "--strict"),
    ],
)
def test_what_is_wrong_is_told_in_one_message(arguments: list[str], words: str, tmp_path: Path) -> None:
    given = [str(path_of("Qwen3-8B")) if argument == "MODEL" else argument for argument in arguments]
    done = plan(*given, home=tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("tokenwell: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from tokenwell.cli.plan import plan, named, this_machine; import tokenwell.cli.planned;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'triton', 'numpy', 'rich')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
