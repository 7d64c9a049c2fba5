"""Kernels compile for cards of other makes and ages, and fit into their shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[3] / "benchmarks" / "models" / "tiny.json"


@pytest.mark.parametrize(
    ("card", "formats"), [("gfx1100", []), ("sm_86", ["--quantization=fp8", "--kv-cache-dtype=fp8"])], ids=["amd", "ampere"]
)
def test_what_a_model_launches(card: str, formats: list[str]) -> None:
    """In a process of its own: Triton's interpreter cannot be left once it is on."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    program = [sys.executable, "-m", "tests.engine.kernels.compile_elsewhere", card, str(CONFIG), *formats]
    run = subprocess.run([*program, "--rows", "1", "16", "--prompts", "32"], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
