"""Machine code on disk: used when it is sound, made anew when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tokenwell.engine.kernels import cpu_elementwise, cpu_kept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where code is kept in this test."""
    monkeypatch.setattr(cpu_kept, "_folder", None)
    cpu_kept.keep_in(tmp_path / "kernels")
    return tmp_path / "kernels"


def test_only_what_is_sound_is_found(folder: Path) -> None:
    name = cpu_kept.name_of("a", "b")
    assert name not in (cpu_kept.name_of("ab"), cpu_kept.name_of("a", "c"))
    assert cpu_kept.find(name) is None
    cpu_kept.keep(name, b"some code")
    assert cpu_kept.find(name) == b"some code"
    assert [file.name for file in folder.iterdir()] == [name]
    file = folder / name
    for damaged in (file.read_bytes()[:-1], b"", b"x" + file.read_bytes()):
        file.write_bytes(damaged)
        assert cpu_kept.find(name) is None


def test_nothing_is_kept_where_nobody_asked_or_nothing_can_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("no folder")
    cpu_kept.keep("name", b"some code")
    assert cpu_kept.find("name") is None
    monkeypatch.setattr(cpu_kept, "_folder", None)
    cpu_kept.keep("name", b"some code")
    assert cpu_kept.find("name") is None


def test_code_from_disk_computes_the_same(folder: Path, best: list[object]) -> None:
    for isa in best:
        x = torch.randn(3, 128).bfloat16()
        made = cpu_elementwise.gated(cpu_elementwise.kernel_for(isa, "silu"), x)
        (file,) = folder.iterdir()
        written = file.stat().st_mtime_ns
        again = cpu_elementwise.gated(cpu_elementwise.kernel_for(isa, "silu"), x)
        assert torch.equal(again, made)
        assert file.stat().st_mtime_ns == written  # read, not made again
        file.write_bytes(b"damaged")
        assert torch.equal(cpu_elementwise.gated(cpu_elementwise.kernel_for(isa, "silu"), x), made)
        assert len(file.read_bytes()) > 1000
