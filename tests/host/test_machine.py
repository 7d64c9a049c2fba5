"""Looking at a real machine: files that are none, links, programs that hang, rates of reading."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tokenwell.host.machine import LiveMachine, whole_number


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    machine = LiveMachine(tmp_path)
    (tmp_path / "file").write_bytes(b" text\n\x00")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    assert machine.text("/file") == "text"
    assert machine.read("/file", 3) == b" te"
    assert [machine.read(f"/{name}") for name in ("folder", "pipe", "gone", "circle", "missing", "file/below", "a\0b")] == [
        None
    ] * 7
    assert machine.names("/") == ("circle", "file", "folder", "gone", "pipe")
    assert [machine.names(path) for path in ("/file", "/missing")] == [None, None]
    assert machine.unseen == []


def test_links_lead_to_paths_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "sys/devices/card").mkdir(parents=True)
    (tmp_path / "sys/bus").mkdir()
    (tmp_path / "sys/bus/card").symlink_to("../devices/card")
    machine = LiveMachine(tmp_path)
    assert machine.target("/sys/bus/card") == "/sys/devices/card"
    assert machine.target("/sys/bus/other") is None
    assert LiveMachine().target("/proc/self/../self/status") == f"/proc/{os.getpid()}/status"


def test_what_may_not_be_seen_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    machine = LiveMachine(tmp_path)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    assert machine.read("/sys/secret") is None
    assert machine.read("/sys/secret") is None
    assert machine.names("/root") is None
    assert machine.unseen == ["/sys/secret", "/root"]


def test_nodes_say_who_may_use_them(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"four")
    node = LiveMachine(tmp_path).node("/file")
    assert node is not None
    assert (node.kind, node.owner, node.usable, node.size_bytes) == ("file", os.getuid(), True, 4)
    device = LiveMachine().node("/dev/null")
    assert device is not None
    assert (device.kind, device.mode & 0o666, device.usable) == ("device", 0o666, True)
    assert LiveMachine(tmp_path).node("/missing") is None


def test_programs() -> None:
    machine = LiveMachine(program_seconds=0.5)
    assert machine.run("echo", "hello") == "hello\n"
    assert machine.run("sh", "-c", "echo wrong >&2; exit 3") == "wrong\n"
    assert machine.run("no-such-program-here") is None
    start = time.perf_counter()
    assert machine.run("sleep", "60") is None
    assert time.perf_counter() - start < 30


def test_no_program_is_run_for_a_folder_that_looks_like_a_machine(tmp_path: Path) -> None:
    assert LiveMachine(tmp_path).run("echo", "hello") is None


def test_a_rate_is_measured_only_past_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(bytes(8 * 2**20 + 5))  # the last part is no whole block
    start = time.perf_counter()
    rate = LiveMachine(tmp_path).read_rate("/model", 0.2)
    assert time.perf_counter() - start < 30
    assert rate is None or rate > 1e6  # a file system without direct reads has none
    assert LiveMachine(tmp_path).read_rate("/missing", 0.2) is None


@pytest.mark.parametrize(
    ("text", "base", "number"),
    [("12\n", 10, 12), ("0x8086", 16, 0x8086), ("", 10, None), (None, 10, None), ("1.5", 10, None), ("9" * 5000, 10, None)],
)
def test_whole_numbers(text: str | None, base: int, number: int | None) -> None:
    assert whole_number(text, base) == number
