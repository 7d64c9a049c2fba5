"""A folder that exists in memory only, for the file tools of the agent. Results have the form of the agent's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

NAMES = ("read_file", "write_file", "append_file")


def clean(path: str) -> str:
    """A path without the ways of writing that make no difference."""
    return path.strip().removeprefix("./")


class Folder:
    """Text files by their path; `files` is what they hold now."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = dict(files)

    def run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The result of a call to one of NAMES whose arguments fit its schema."""
        path = clean(arguments["path"])
        if name == "read_file":
            return self.files[path] if path in self.files else _json({"error": f"there is no file {arguments['path']}"})
        text, old = arguments["content"], self.files.get(path, "")
        if name == "write_file":
            self.files[path] = text
            return _json({"path": arguments["path"], "status": "written"})
        self.files[path] = old + ("\n" if old and not old.endswith("\n") else "") + text + ("" if text.endswith("\n") else "\n")
        return _json({"path": arguments["path"], "status": "appended"})


def _json(content: Mapping[str, str]) -> str:
    return json.dumps(content, ensure_ascii=False)
