"""A model without sense makes valid calls when it is forced to, in every format; all 200 schemas: benchmarks/forced_calls.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.forced import forced_calls, write_checkpoint

FORMATS = ("gemma4", "harmony", "qwen_xml", "hermes", "llama3", "deepseek", "mistral")


VISIBLE = ("qwen_xml", "hermes", "deepseek", "mistral")  # their marks are added tokens, but not special, in public checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("senseless"))


@pytest.fixture(scope="module")
def visible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("visible"), special=False)


@pytest.mark.parametrize("format", FORMATS)
def test_forced_calls_are_valid(checkpoint: Path, tmp_path: Path, format: str) -> None:
    first = 28 * FORMATS.index(format)
    assert forced_calls(checkpoint, tmp_path / "log", format, range(first, first + 7)) == []


@pytest.mark.parametrize("format", VISIBLE)
def test_forced_calls_are_valid_with_marks_that_are_not_special(visible: Path, tmp_path: Path, format: str) -> None:
    first = 140 + 15 * VISIBLE.index(format)
    assert forced_calls(visible, tmp_path / "log", format, range(first, first + 7)) == []
