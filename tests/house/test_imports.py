"""The import contracts in pyproject.toml forbid what the design forbids, and the gateway starts light and without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.house.rules import ROOT

# A module, an import that it must not have, and the contract that says so.
FORBIDDEN = [
    ("wire/messages.py", "tokenwell.chat.events", "A module imports only its own layer and the layers below"),
    ("chat/events.py", "tokenwell.service", "A module imports only its own layer and the layers below"),
    ("service/__init__.py", "tokenwell.engine.schedule.plan", "The engine is started, never imported"),
    ("chat/conversation.py", "torch", "torch, triton and transformers stay inside the engine"),
    ("engine/run/__init__.py", "transformers", "transformers is the tests' oracle, never part of the service"),
    ("engine/schedule/plan.py", "torch", "The scheduler knows no torch, no clock, no chance and no I/O"),
    ("engine/schedule/plan.py", "time", "The scheduler knows no torch, no clock, no chance and no I/O"),
    ("engine/__init__.py", "starlette", "The engine knows no HTTP and no dialect"),
]

# What the gateway process runs; importing it is most of its start.
GATEWAY = ["tokenwell.cli.main", "tokenwell.api.server"]

_MEASURE = """
import json, sys, time
start = time.perf_counter()
for name in sys.argv[1:]:
    __import__(name)
seconds = time.perf_counter() - start
import psutil
heavy = sorted({"torch", "triton", "transformers", "openai", "tokenwell.engine"} & set(sys.modules))
print(json.dumps({"seconds": seconds, "rss_mb": psutil.Process().memory_info().rss / 1e6, "heavy": heavy}))
"""


def test_every_contract_is_kept_by_the_tree() -> None:
    linted = _lint(ROOT)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_every_contract_breaks_when_its_rule_is_broken(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for module, imported, _ in FORBIDDEN:
        path = tmp_path / "src/tokenwell" / module
        path.write_text(path.read_text(encoding="utf-8") + f"\nimport {imported}\n", encoding="utf-8")
    linted = _lint(tmp_path)
    assert linted.returncode == 1
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    assert {contract for _, _, contract in FORBIDDEN} == {contract["name"] for contract in contracts}
    for module, imported, contract in FORBIDDEN:
        assert f"{contract} BROKEN" in linted.stdout
        importer = "tokenwell." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        assert f"{importer} -> {imported}" in linted.stdout, linted.stdout


def test_every_package_has_a_place_in_the_contracts() -> None:
    packages = {f"tokenwell.{path.parent.name}" for path in (ROOT / "src/tokenwell").glob("*/__init__.py")}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        if contract["id"] in ("engine-is-a-program", "torch-only-in-the-engine"):
            assert set(contract["source_modules"]) == packages - {"tokenwell.engine"}


def test_the_gateway_imports_little_and_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", _MEASURE, *GATEWAY]
    runs = [subprocess.run(command, check=False, capture_output=True, text=True) for _ in range(3)]
    assert [run.stderr for run in runs] == [""] * 3
    measured = [json.loads(run.stdout) for run in runs]
    best = min(measured, key=lambda run: run["seconds"])  # the first may compile, and the machine may be busy
    with capsys.disabled():
        print(f"\ngateway import: {best['seconds']:.2f} s, {best['rss_mb']:.0f} MB")
    assert best["heavy"] == []
    assert best["rss_mb"] < 80


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    # import-linter looks for the packages on sys.path; the folder's own source comes first.
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", program, str(folder / "src"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
