"""One working folder: its text files can be read, written and appended to, and nothing outside of it can.

Every part of a path is opened from the folder before it without following links, so no link and no race leads outside.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenwell.agent.errors import ToolError

MOST_BYTES = 1 << 20  # a model that was given more would have no window left

_LONGEST = 1024  # characters of a path
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_INNER = bytes(range(0x80, 0xC0))  # in UTF-8, no character begins with these
# Without O_NONBLOCK, opening a named pipe would wait for ever.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Folder:
    """The files below `root`, which must exist. Paths are relative, with /; every failure is a ToolError in words."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve(strict=True)

    def read(self, path: str) -> str:
        """The text of a file. Line ends stay as they are."""
        with self._opened(path, os.O_RDONLY) as file:
            data = bytearray()
            while len(data) <= MOST_BYTES and (block := os.read(file, MOST_BYTES)):
                data += block
        if len(data) > MOST_BYTES:
            raise ToolError(f"{path} has more than {MOST_BYTES} bytes")
        return _text(path, bytes(data))

    def write(self, path: str, text: str) -> None:
        """Make `text` the whole content of a file; the file and its folders are made when they are not there."""
        with self._opened(path, os.O_WRONLY | os.O_CREAT) as file:
            _reserve(file, len(text.encode()))
            os.ftruncate(file, len(text.encode()))
            _write(file, text)

    def append(self, path: str, text: str) -> None:
        """Add `text` at the end of a file as lines of its own, with a line end behind it."""
        with self._opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
            begins_at = max(0, os.fstat(file).st_size - MOST_BYTES)
            end = os.pread(file, MOST_BYTES, begins_at)
            # Our text in a file of another encoding would spoil it. A part of a file may begin in the middle of a character.
            begins_a_line = _text(path, end.lstrip(_INNER) if begins_at else end)[-1:] in ("", "\n")
            _write(file, ("" if begins_a_line else "\n") + text + ("" if text.endswith("\n") else "\n"))

    def make(self, stem: str, suffix: str, text: str) -> str:
        """Write `text` to a new file `stem``suffix` or, where that exists, `stem`-2, -3 ...; returns its name."""
        number = 1
        while True:
            name = f"{stem}{'' if number == 1 else f'-{number}'}{suffix}"
            if not os.path.lexists(self.root / name):
                with self._opened(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                    _write(file, text)
                return name
            number += 1

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        """A regular file's descriptor. With O_CREAT the folders on the way are made too."""
        *folders, name = _parts(path.removeprefix(f"{self.root}/"))
        try:
            place = os.open(self.root, _FOLDER)
            try:
                for part in folders:
                    if flags & os.O_CREAT:
                        _make_folder(place, part)
                    inner = os.open(part, _FOLDER, dir_fd=place)
                    os.close(place)
                    place = inner
                file = os.open(name, flags | _FILE, 0o666, dir_fd=place)
            finally:
                os.close(place)
        except OSError as error:
            raise ToolError(_told(path, error)) from error
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ToolError(f"{path} is not a file")
            yield file
        except OSError as error:
            raise ToolError(_told(path, error)) from error
        finally:
            os.close(file)


def _parts(path: str) -> list[str]:
    """The names on the way to a file. Raises ToolError for a path that could lead out of the folder or names no file."""
    if not path.strip() or "\0" in path:
        raise ToolError("the path is empty" if not path.strip() else "the path has a character that no path has")
    parts = path.split("/")
    if len(path) > _LONGEST:  # folders in folders in folders, by a model that cannot stop
        raise ToolError("the path is too long")
    if path.startswith("/") or ".." in parts or parts[0] == "~":  # a folder of that name is removed with a whole home
        raise ToolError(f"{path} is outside of the working folder; give a path inside it")
    names = [part for part in parts if part not in ("", ".")]
    if not names or path.endswith("/"):
        raise ToolError(f"{path} is a folder, not a file")
    return names


def _make_folder(place: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=place)


def _text(path: str, data: bytes) -> str:
    """Raises ToolError for what is not UTF-8. UTF-16 of plain English is, but for its zeros."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ToolError(f"{path} is not a text file in UTF-8") from error
    if "\0" in text:
        raise ToolError(f"{path} is not a text file in UTF-8")
    return text


def _reserve(file: int, size: int) -> None:
    """Fails where there is no room, while the old text is still there. Not every system and file system can tell."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _write(file: int, text: str) -> None:
    data = memoryview(text.encode())
    while data:
        data = data[os.write(file, data) :]


def _told(path: str, error: OSError) -> str:
    """An operating system's error in the words of a person."""
    if error.errno == errno.ENOENT:
        return f"there is no file {path}"
    if error.errno == errno.ELOOP:
        return f"{path} is a link, and links are not followed"
    if error.errno == errno.ENOTDIR:  # opening a link as a folder says this too
        return f"{path} leads through something that is not a folder of its own"
    if error.errno in (errno.EISDIR, errno.ENXIO):
        return f"{path} is not a file"
    return f"{path} cannot be used: {error.strerror}"
