"""Does the calls that a model makes, one after another; what a call got wrong becomes its result, for the model to see."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenwell.agent.errors import ToolError
from tokenwell.agent.folder import Folder
from tokenwell.agent.moment import moment
from tokenwell.agent.reminder import icalendar
from tokenwell.agent.tools import NAMES, TOOLS
from tokenwell.agent.weather import weather

Arguments = dict[str, str]


class Toolbox:
    """The tools of `tools` at work in one folder. `clock` gives the local time; `offline` keeps the weather off the network."""

    def __init__(self, folder: Path, *, offline: bool = False, clock: Callable[[], datetime] = datetime.now) -> None:
        self.folder = Folder(folder)
        self._offline = offline
        self._clock = clock
        self._tools: dict[str, Callable[[Arguments], str]] = {
            "read_file": lambda given: self.folder.read(given["path"]),
            "write_file": self._write_file,
            "append_file": self._append_file,
            "get_weather": self._get_weather,
            "set_reminder": self._set_reminder,
        }

    def run(self, name: str, arguments: str) -> str:
        """The result of a call; `arguments` is JSON as the model wrote it. Raises nothing that a model could cause."""
        try:
            given = checked(name, arguments)
            return self._tools[name](given)
        except ToolError as failure:
            return as_json({"error": str(failure)})
        except RecursionError:
            return as_json({"error": f"the arguments of {name} are nested too deeply"})

    def _write_file(self, given: Arguments) -> str:
        self.folder.write(given["path"], given["content"])
        return as_json({"path": given["path"], "status": "written"})

    def _append_file(self, given: Arguments) -> str:
        self.folder.append(given["path"], given["content"])
        return as_json({"path": given["path"], "status": "appended"})

    def _get_weather(self, given: Arguments) -> str:
        return as_json(weather(given["city"], given.get("date", ""), self._clock().date(), offline=self._offline))

    def _set_reminder(self, given: Arguments) -> str:
        now = self._clock()
        when = moment(given["time"], now)
        if when is None:
            such = f"18:00, tomorrow 9:00 or {now:%Y-%m-%d} 18:00"
            raise ToolError(f"the time {given['time']!r} is not understood; say it such as {such}")
        if when <= now:
            raise ToolError(f"{when:%Y-%m-%d %H:%M} is in the past; it is {now:%Y-%m-%d %H:%M} now")
        file = self.folder.make(f"reminder-{when:%Y%m%d-%H%M}", ".ics", icalendar(given["text"], when, datetime.now(UTC)))
        return as_json({"text": given["text"], "time": f"{when:%Y-%m-%d %H:%M}", "file": file})


def checked(name: str, arguments: str) -> Arguments:
    """The call's arguments if they are as declared, else a ToolError that says what is wrong."""
    declared = next((tool["function"]["parameters"] for tool in TOOLS if tool["function"]["name"] == name), None)
    if declared is None:
        raise ToolError(f"there is no tool {name}; there are {', '.join(NAMES)}")
    try:
        given: Any = json.loads(arguments)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise ToolError(f"the arguments of {name} are no JSON object: {arguments}")
    # Large models like to say null for what they leave out.
    given = {key: value for key, value in given.items() if value is not None}
    for key, value in given.items():
        if key not in declared["properties"]:
            raise ToolError(f"{name} has no parameter {key}; it has {', '.join(declared['properties'])}")
        if not isinstance(value, str) or not _is_text(value):
            raise ToolError(f"{key} of {name} is to be a text, not {json.dumps(value)}")
    for key in declared["required"]:
        if key not in given:
            raise ToolError(f"{name} needs {key}")
    return dict(given)


def _is_text(value: str) -> bool:
    """False for halves of characters, which JSON can write and no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def as_json(content: object) -> str:
    """One line of JSON that keeps every script readable."""
    return json.dumps(content, ensure_ascii=False)
