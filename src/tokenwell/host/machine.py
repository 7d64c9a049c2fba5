"""The one way to look at a machine: files, folders, device nodes and the few programs that are run. Knows not what they mean.

`LiveMachine` is this machine (or a folder that looks like one), `RecordedMachine` one that was written down, and a
`Recorder` writes down what is asked of another. What is missing and what may not be seen are both None; what may not be
seen is also listed in `unseen`. Nothing here raises for what a machine contains.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

MIB = 2**20
_READ_BYTES = 4 * MIB
_PROGRAM_SECONDS = 4.0  # a driver that nobody uses wakes its cards first
_PROGRAM_FOLDERS = ("/usr/lib/wsl/lib", "/usr/local/bin", "/usr/bin", "/usr/sbin")  # where there is no PATH, and on WSL
_HIDDEN = {errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class Node:
    """A file, folder or device and whether this user may read and write it."""

    kind: str  # "device", "folder", "file" or "other"
    mode: int  # permission bits
    owner: int
    group: int
    usable: bool
    size_bytes: int = 0


@dataclass(frozen=True)
class Space:
    """Room in a file system, in bytes."""

    total_bytes: int
    free_bytes: int  # for this user


@dataclass(frozen=True)
class User:
    """The user of this process."""

    number: int
    groups: frozenset[int]


class Machine(ABC):
    """What can be asked of a machine. Paths are absolute and those of the machine."""

    environment: Mapping[str, str]
    user: User
    site_folders: tuple[str, ...]  # where Python looks for packages
    unseen: list[str]  # what was asked for, exists, and may not be seen

    @abstractmethod
    def read(self, path: str, limit_bytes: int = MIB) -> bytes | None:
        """The first bytes of a regular file; None where it is missing or may not be read."""

    @abstractmethod
    def names(self, folder: str) -> tuple[str, ...] | None:
        """The sorted names in a folder; None where it is missing or may not be read."""

    @abstractmethod
    def target(self, path: str) -> str | None:
        """The path with all links followed; None where there is nothing."""

    @abstractmethod
    def node(self, path: str) -> Node | None:
        """What is there and who may use it; None where there is nothing or it may not be seen."""

    @abstractmethod
    def run(self, *command: str) -> str | None:
        """What a program prints, also when it fails; None where there is no such program or it does not end in time."""

    @abstractmethod
    def space(self, folder: str) -> Space | None:
        """Room in the file system of a folder."""

    @abstractmethod
    def read_rate(self, path: str, seconds: float) -> float | None:
        """Bytes per second that reading a file past the page cache gives, measured for so long at most."""

    def text(self, path: str) -> str | None:
        """A file's text without white space around it."""
        data = self.read(path)
        return None if data is None else data.decode("utf-8", "replace").strip(" \t\r\n\0")

    def number(self, path: str, base: int = 10) -> int | None:
        """The whole number that a file holds; None for anything else."""
        return whole_number(self.text(path), base)


def whole_number(text: str | None, base: int = 10) -> int | None:
    """The number that a text is; None for anything else, also for digits without end."""
    if text is None or len(text) > 40:
        return None
    try:
        return int(text.strip(), base)
    except ValueError:
        return None


class LiveMachine(Machine):
    """This machine, or the files of one below `root`, the folder that holds its proc/, sys/, dev/ and etc/.

    A folder of files has no programs to run and no room to measure. A program has `program_seconds` to answer.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        environment: Mapping[str, str] = MappingProxyType({}),
        program_seconds: float = _PROGRAM_SECONDS,
    ) -> None:
        self.root = root
        self._program_seconds = program_seconds
        self.environment = environment
        self.user = User(os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
        self.site_folders = tuple(entry for entry in sys.path if entry)
        self.unseen: list[str] = []

    def read(self, path: str, limit_bytes: int = MIB) -> bytes | None:
        try:
            # A FIFO or a tape with a file's name must not stop us.
            handle = os.open(self._here(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            self._note(path, error)
            return None
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            parts = []
            while limit_bytes > 0 and (part := os.read(handle, limit_bytes)):
                parts.append(part)
                limit_bytes -= len(part)
            return b"".join(parts)
        except OSError as error:  # many files of /sys open, and then say that the device has no such thing
            self._note(path, error)
            return None
        finally:
            os.close(handle)

    def names(self, folder: str) -> tuple[str, ...] | None:
        try:
            return tuple(sorted(os.listdir(self._here(folder))))
        except (OSError, ValueError) as error:
            self._note(folder, error)
            return None

    def target(self, path: str) -> str | None:
        try:
            real = os.path.realpath(self._here(path), strict=True)
        except (OSError, ValueError) as error:
            self._note(path, error)
            return None
        root = os.path.realpath(self.root)
        return real if root == "/" else "/" + os.path.relpath(real, root)

    def node(self, path: str) -> Node | None:
        here = self._here(path)
        try:
            status = os.stat(here)
        except (OSError, ValueError) as error:
            self._note(path, error)
            return None
        usable = os.access(here, os.R_OK | os.W_OK)
        return Node(_kind(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, usable, status.st_size)

    def run(self, *command: str) -> str | None:
        if self.root != Path("/"):
            return None
        program = shutil.which(command[0]) or shutil.which(command[0], path=os.pathsep.join(_PROGRAM_FOLDERS))
        if program is None:
            return None
        try:
            process = subprocess.Popen(
                [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError:
            return None
        try:
            output, _ = process.communicate(timeout=self._program_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):  # stuck in the driver: the kernel ends it when it can
                process.communicate(timeout=0.2)
            return None
        return output[:MIB].decode("utf-8", "replace")

    def space(self, folder: str) -> Space | None:
        if self.root != Path("/"):
            return None
        try:
            status = os.statvfs(self._here(folder))
        except (OSError, ValueError) as error:
            self._note(folder, error)
            return None
        return Space(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)

    def read_rate(self, path: str, seconds: float) -> float | None:
        try:
            handle = os.open(self._here(path), os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECT", 0))
        except (OSError, ValueError):  # some file systems have no direct reads, and cached ones would tell nothing
            return None
        start, total, count = time.perf_counter(), 0, _READ_BYTES
        try:
            with mmap.mmap(-1, _READ_BYTES) as buffer:  # direct reads need aligned memory and places, so the last part ends it
                while count == _READ_BYTES and time.perf_counter() - start < seconds:
                    count = os.preadv(handle, [buffer], total)
                    total += count
        except OSError:
            return None
        finally:
            os.close(handle)
        return total / (time.perf_counter() - start) if total >= _READ_BYTES else None

    def _here(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def _note(self, path: str, error: Exception) -> None:
        if isinstance(error, OSError) and error.errno in _HIDDEN and path not in self.unseen:
            self.unseen.append(path)


def _kind(mode: int) -> str:
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "device"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"
