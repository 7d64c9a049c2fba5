"""Machines written down as JSON: reading one instead of a machine, and writing one down. Knows not what the files mean.

The form: "files" is a tree whose names may hold slashes; a text is a file, null one that may not be read, {"hex": …} bytes.
"links" maps a path to the path behind it, "nodes" a device to {"mode", "owner", "group"}, "sizes" a large file to its bytes
(nobody needs its content), "folders" a folder to its names,
"programs" a command line to what it prints, "spaces" a folder to [total, free] bytes, "rates" a file to bytes per second;
"environment", "user" {"number", "groups"} and "site_folders" are as in `Machine`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenwell.host.machine import MIB, Machine, Node, Space, User
from tokenwell.wire.errors import SettingsError

_MOST_LINKS = 40  # as the kernel, against circles
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")


class RecordedMachine(Machine):
    """A machine that was written down."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._files = dict(_flat("", record.get("files", {})))
        self._links: dict[str, str] = dict(record.get("links", {}))
        self._programs = {command: str(output) for command, output in record.get("programs", {}).items()}
        self._spaces = {folder: Space(int(total), int(free)) for folder, (total, free) in record.get("spaces", {}).items()}
        self._sizes = {path: int(size) for path, size in record.get("sizes", {}).items()}
        self._rates = {path: float(rate) for path, rate in record.get("rates", {}).items()}
        self.environment = {name: str(value) for name, value in record.get("environment", {}).items()}
        user = record.get("user", {"number": 0, "groups": [0]})
        self.user = User(int(user["number"]), frozenset(int(group) for group in user["groups"]))
        self.site_folders = tuple(str(folder) for folder in record.get("site_folders", ()))
        self.unseen = []
        self._nodes = {path: self._device(given) for path, given in record.get("nodes", {}).items()}
        self._folders: dict[str, set[str]] = {folder: set(names) for folder, names in record.get("folders", {}).items()}
        self._folders |= {folder: set() for folder in self._spaces if folder not in self._folders}
        for path in (*self._files, *self._links, *self._nodes, *self._sizes, *self._spaces, *self._folders):
            while path != "/" and path:
                folder, _, name = path.rpartition("/")
                self._folders.setdefault(folder or "/", set()).add(name)
                path = folder

    def read(self, path: str, limit_bytes: int = MIB) -> bytes | None:
        real = self._real(path)
        if real not in self._files:
            return None
        content = self._files[real]
        if content is None:
            self._note(path)
            return None
        return content[:limit_bytes]

    def names(self, folder: str) -> tuple[str, ...] | None:
        real = self._real(folder)
        if self._files.get(real, b"") is None:
            self._note(folder)
        return tuple(sorted(self._folders[real])) if real in self._folders else None

    def target(self, path: str) -> str | None:
        real = self._real(path)
        return real if any(real in known for known in (self._files, self._folders, self._nodes, self._sizes)) else None

    def node(self, path: str) -> Node | None:
        real = self._real(path)
        if real in self._nodes:
            return self._nodes[real]
        if real in self._sizes:
            return Node("file", 0o644, 0, 0, True, self._sizes[real])
        kind = "file" if real in self._files else "folder" if real in self._folders else None
        content = self._files.get(real, b"")
        return Node(kind, 0o755, 0, 0, content is not None, len(content or b"")) if kind else None

    def run(self, *command: str) -> str | None:
        return self._programs.get(" ".join(command))

    def space(self, folder: str) -> Space | None:
        real = self.target(folder) or ""
        while real and real not in self._spaces and real != "/":
            real = real.rpartition("/")[0] or "/"
        return self._spaces.get(real)

    def read_rate(self, path: str, seconds: float) -> float | None:
        return self._rates.get(self._real(path))

    def _device(self, given: Mapping[str, Any]) -> Node:
        mode, owner, group = int(given["mode"], 8), int(given["owner"]), int(given["group"])
        return Node("device", mode, owner, group, bool(given.get("usable", self._may_use(mode, owner, group))))

    def _may_use(self, mode: int, owner: int, group: int) -> bool:
        if self.user.number == 0:
            return True
        shift = 6 if owner == self.user.number else 3 if group in self.user.groups else 0
        return (mode >> shift) & 0o6 == 0o6

    def _real(self, path: str) -> str:
        parts, real = [part for part in path.split("/") if part], ""
        for _ in range(_MOST_LINKS):
            real = ""
            for index, part in enumerate(parts):
                real += "/" + part
                if real in self._links:
                    parts = [part for part in self._links[real].split("/") if part] + parts[index + 1 :]
                    break
            else:
                break
        return real or "/"

    def _note(self, path: str) -> None:
        if path not in self.unseen:
            self.unseen.append(path)


def read_recording(path: Path) -> RecordedMachine:
    """The machine in a file that `Recorder` or a person wrote. Raises SettingsError naming the file and what is wrong."""
    try:
        return RecordedMachine(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"the recorded machine {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SettingsError(f"{path} is no recorded machine as `tokenwell doctor --record` writes it: {error!r}") from None


class Recorder(Machine):
    """Another machine, and all that was asked of it. Only the variables named are kept, proxies without passwords."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.environment = machine.environment
        self.user = machine.user
        self.site_folders = machine.site_folders
        self.unseen = machine.unseen
        self._record: dict[str, dict[str, Any]] = {
            name: {} for name in ("files", "links", "nodes", "sizes", "folders", "programs", "spaces", "rates")
        }

    def read(self, path: str, limit_bytes: int = MIB) -> bytes | None:
        data = self._machine.read(path, limit_bytes)
        if data is not None:
            self._record["files"][self._place(path)] = _as_json(data)
        elif path in self.unseen:
            self._record["files"][path] = None
        return data

    def names(self, folder: str) -> tuple[str, ...] | None:
        names = self._machine.names(folder)
        if names is not None:
            self._record["folders"][self._place(folder)] = list(names)
        return names

    def target(self, path: str) -> str | None:
        target = self._machine.target(path)
        if target is not None:
            self._place(path)
            self._record["folders"].setdefault(target, [])
        return target

    def node(self, path: str) -> Node | None:
        node = self._machine.node(path)
        if node is not None and node.kind == "device":
            kept = {"mode": f"{node.mode:o}", "owner": node.owner, "group": node.group, "usable": node.usable}
            self._record["nodes"][self._place(path)] = kept
        elif node is not None and node.kind == "folder":
            self._record["folders"].setdefault(self._place(path), [])
        elif node is not None:
            self._record["sizes"][self._place(path)] = node.size_bytes
        return node

    def run(self, *command: str) -> str | None:
        output = self._machine.run(*command)
        if output is not None:
            self._record["programs"][" ".join(command)] = output
        return output

    def space(self, folder: str) -> Space | None:
        space = self._machine.space(folder)
        if space is not None:
            self._record["spaces"][self._place(folder)] = [space.total_bytes, space.free_bytes]
        return space

    def read_rate(self, path: str, seconds: float) -> float | None:
        rate = self._machine.read_rate(path, seconds)
        if rate is not None:
            self._record["rates"][self._place(path)] = rate
        return rate

    def as_json(self) -> str:
        """All that was asked, in the form of this module."""
        environment = {name: _CREDENTIALS.sub("", value) for name, value in sorted(self.environment.items())}
        user = {"number": self.user.number, "groups": sorted(self.user.groups)}
        rest = {"environment": environment, "user": user, "site_folders": list(self.site_folders)}
        return json.dumps(self._record | rest, indent=1)

    def _place(self, path: str) -> str:
        """Where the thing is behind all links; the way there is kept as one link."""
        real = self._machine.target(path) or path
        if real != path:
            self._record["links"][path] = real
        return real


def _flat(folder: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, bytes | None]]:
    for name, content in tree.items():
        path = f"{folder}/{name.strip('/')}"
        if isinstance(content, Mapping) and set(content) == {"hex"}:
            yield path, bytes.fromhex(content["hex"])
        elif isinstance(content, Mapping):
            yield from _flat(path, content)
        else:
            yield path, None if content is None else str(content).encode()


def _as_json(data: bytes) -> str | dict[str, str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"hex": data.hex()}
