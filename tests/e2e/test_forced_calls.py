"""A model without sense makes valid calls when it is forced to, in every format; all 200 schemas: benchmarks/forced_calls.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.forced import forced_calls, write_checkpoint

FORMATS = ("gemma4", "harmony", "qwen_xml", "hermes", "llama3", "deepseek", "mistral")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("senseless"))


@pytest.mark.parametrize("format", FORMATS)
def test_forced_calls_are_valid(checkpoint: Path, tmp_path: Path, format: str) -> None:
    first = 20 * FORMATS.index(format)
    assert forced_calls(checkpoint, tmp_path / "log", format, range(first, first + 12)) == []
