"""Files of one folder: what is written is there, and no path leads out."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenwell.agent.errors import ToolError
from tokenwell.agent.folder import MOST_BYTES, Folder


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A folder with a neighbour that nobody may touch."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_what_was_written_is_read(inside: Path) -> None:
    folder = Folder(inside)
    folder.write("notes/2026/a.md", "eins\r\n二\n")
    assert folder.read("notes/2026/a.md") == "eins\r\n二\n"
    folder.write("./notes//2026/a.md", "x")
    assert (inside / "notes/2026/a.md").read_bytes() == b"x"


def test_a_path_may_begin_with_the_working_folder(inside: Path) -> None:
    Folder(inside).write(f"{inside}/a.md", "x")
    assert (inside / "a.md").read_text() == "x"
    for path in (f"{inside}/../secret.txt", f"{inside}//etc/passwd", f"{inside}x/a.md"):
        with pytest.raises(ToolError, match="outside of the working folder"):
            Folder(inside).read(path)


def test_a_text_for_which_there_is_no_room_leaves_the_old_one(inside: Path) -> None:
    folder = Folder(inside)
    folder.write("a.md", "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(ToolError, match=r"a\.md cannot be used: File too large"):
            folder.write("a.md", "n" * 11)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (inside / "a.md").read_text() == "old"
    folder.write("a.md", "")
    assert (inside / "a.md").read_text() == ""


def test_a_file_system_that_cannot_tell_how_much_room_there_is(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EBADF, "as glibc says for some network file systems")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    folder = Folder(inside)
    folder.write("a.md", "old text")
    folder.write("a.md", "new")
    assert (inside / "a.md").read_text() == "new"


def test_what_is_appended_is_a_line_of_its_own(inside: Path) -> None:
    folder = Folder(inside)
    folder.append("MEMORY.md", "one")
    folder.append("MEMORY.md", "two\n")
    (inside / "open.md").write_text("no line end")
    folder.append("open.md", "three\nfour")
    assert (inside / "MEMORY.md").read_text() == "one\ntwo\n"
    assert (inside / "open.md").read_text() == "no line end\nthree\nfour\n"


@pytest.mark.parametrize("content", ["笔记\n".encode("gbk"), "notes\n".encode("utf-16"), b"\x89PNG\r\n\x1a\n"])
def test_nothing_is_appended_to_a_file_of_another_encoding(inside: Path, content: bytes) -> None:
    (inside / "notes.md").write_bytes(content)
    for use in (Folder(inside).read, lambda path: Folder(inside).append(path, "新")):
        with pytest.raises(ToolError, match=r"notes\.md is not a text file in UTF-8"):
            use("notes.md")
    assert (inside / "notes.md").read_bytes() == content


def test_what_is_appended_to_a_large_file(inside: Path) -> None:
    content = "中" * (MOST_BYTES // 2)
    (inside / "large.log").write_text(content)
    Folder(inside).append("large.log", "end")
    assert (inside / "large.log").read_text() == f"{content}\nend\n"


@pytest.mark.parametrize(
    "path", ["../secret.txt", "a/../../secret.txt", "/etc/passwd", "..", "/", "", " ", ".", "a/", "a\0b", "~/x", "a/" * 999 + "b"]
)
def test_paths_that_could_lead_out_or_name_no_file_are_refused(inside: Path, path: str) -> None:
    folder = Folder(inside)
    for use in (folder.read, lambda path: folder.write(path, "x"), lambda path: folder.append(path, "x")):
        with pytest.raises(ToolError):
            use(path)
    assert (inside.parent / "secret.txt").read_text() == "secret"
    assert list(inside.iterdir()) == []


def test_links_are_not_followed(inside: Path) -> None:
    (inside / "file").symlink_to(inside.parent / "secret.txt")
    (inside / "folder").symlink_to(inside.parent)
    (inside / "nowhere").symlink_to(inside.parent / "new.txt")
    folder = Folder(inside)
    for path in ("file", "folder/secret.txt", "nowhere"):
        with pytest.raises(ToolError, match=r"link|folder of its own"):
            folder.read(path)
        with pytest.raises(ToolError, match=r"link|folder of its own"):
            folder.write(path, "x")
    assert (inside.parent / "secret.txt").read_text() == "secret"
    assert not (inside.parent / "new.txt").exists()


def test_a_working_folder_may_itself_be_reached_through_a_link(inside: Path) -> None:
    (inside.parent / "shortcut").symlink_to(inside)
    Folder(inside.parent / "shortcut").write("a", "x")
    assert (inside / "a").read_text() == "x"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none.md", "there is no file none.md"),
        ("none/a.md", "there is no file none/a.md"),
        ("dir", "dir is not a file"),
        ("a.md/b.md", "leads through something that is not a folder"),
        ("pipe", "pipe is not a file"),
        ("bytes", "bytes is not a text file"),
        ("large", f"large has more than {MOST_BYTES} bytes"),
        ("x" * 300, "cannot be used: File name too long"),
    ],
)
def test_what_cannot_be_read_is_told(inside: Path, path: str, said: str) -> None:
    (inside / "dir").mkdir()
    (inside / "a.md").touch()
    os.mkfifo(inside / "pipe")
    (inside / "bytes").write_bytes(b"\xff\xfe\x00")
    (inside / "large").write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(ToolError, match=said):
        Folder(inside).read(path)


def test_a_folder_and_a_pipe_are_not_written(inside: Path) -> None:
    (inside / "dir").mkdir()
    os.mkfifo(inside / "pipe")
    for path in ("dir", "pipe"):
        with pytest.raises(ToolError, match="is not a file"):
            Folder(inside).write(path, "x")


def test_a_new_file_replaces_none(inside: Path) -> None:
    folder = Folder(inside)
    (inside / "r-2.ics").symlink_to("nowhere")
    assert [folder.make("r", ".ics", text) for text in "ab"] == ["r.ics", "r-3.ics"]
    assert (inside / "r.ics").read_text() + (inside / "r-3.ics").read_text() == "ab"


@given(path=st.text(alphabet="./ab\\~ \n中", max_size=12))
def test_no_path_writes_outside(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "work").mkdir()
    with suppress(ToolError):
        Folder(home / "work").write(path, "x")
    assert [each.name for each in home.iterdir()] == ["work"]
