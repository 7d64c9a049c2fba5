"""The scripted engine's folder in the cache: built once, built again when damaged."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tokenwell.bundled.checkpoint import scripted_folder
from tokenwell.bundled.scripted import NAME, files, version
from tokenwell.wire.errors import CheckpointError

_BUILD = """
import sys
from pathlib import Path
from tokenwell.bundled.checkpoint import scripted_folder
print(scripted_folder(Path(sys.argv[1])))
assert not {"torch", "numpy"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """Of every file, as it should be."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in files().items()}


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "manifest.json"}


def test_the_folder_has_its_files_and_nothing_is_left_beside_it(tmp_path: Path, digests: dict[str, str]) -> None:
    folder = scripted_folder(tmp_path)
    assert folder.name == NAME
    assert _digests(folder) == digests
    assert sorted(path.name for path in folder.parent.iterdir()) == ["lock", NAME]
    assert folder.stat().st_mode & 0o777 == 0o755


def test_an_intact_folder_is_not_built_again_and_need_not_be_writable(tmp_path: Path) -> None:
    first = scripted_folder(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    (first.parent / "lock").unlink()
    first.parent.chmod(0o555)
    assert scripted_folder(tmp_path) == first
    first.parent.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before
    assert not (first.parent / "lock").exists()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", "gone"),
        ("manifest.json", "gone"),
        ("chat_template.jinja", "truncated"),
        ("chat_template.jinja", "changed"),
        ("tokenizer.json", "empty"),
        ("manifest.json", "empty"),
    ],
)
def test_a_damaged_folder_is_built_again(tmp_path: Path, name: str, damage: str, digests: dict[str, str]) -> None:
    path = scripted_folder(tmp_path) / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:-7], "changed": bytes([data[0] ^ 1]) + data[1:], "empty": b""}[damage])
    folder = scripted_folder(tmp_path)
    assert _digests(folder) == digests
    assert sorted(path.name for path in folder.parent.iterdir()) == ["lock", NAME]


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b'{"version": "1", "sha256": []}', b'{"version": "0", "sha256": {}}', b"\xff"]
)
def test_a_strange_manifest_is_damage(tmp_path: Path, content: bytes, digests: dict[str, str]) -> None:
    (scripted_folder(tmp_path) / "manifest.json").write_bytes(content)
    assert json.loads((scripted_folder(tmp_path) / "manifest.json").read_text())["sha256"] == digests


def test_a_file_in_the_folders_place_and_an_interrupted_build_are_cleared(tmp_path: Path, digests: dict[str, str]) -> None:
    home = tmp_path / "bundled" / version()
    (home / ".building-0").mkdir(parents=True)
    (home / ".building-0" / "config.json").write_text("{")
    (home / NAME).write_text("not a folder")
    assert _digests(scripted_folder(tmp_path)) == digests
    assert sorted(path.name for path in home.iterdir()) == ["lock", NAME]


def test_many_first_starts_at_once_build_one_folder(tmp_path: Path, digests: dict[str, str]) -> None:
    command = [sys.executable, "-c", _BUILD, str(tmp_path)]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {start.communicate()[0].strip() for start in starts}
    assert [start.returncode for start in starts] == [0] * 4
    assert len(folders) == 1
    assert _digests(Path(folders.pop())) == digests


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot be written to .*scripted: Not a directory; .*XDG_CACHE_HOME"):
        scripted_folder(tmp_path / "cache")
