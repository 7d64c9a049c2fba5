"""The agent's tools as a model sees them: declarations in the form of the OpenAI Chat API. What they do is in `toolbox`.

A result is a string. read_file gives the file's text as it is. Every other result, and every error, is one JSON object
with simple values:

    write_file, append_file   {"path": "MEMORY.md", "status": "written"}      "appended" for append_file
    get_weather               {"city": "Shanghai", "date": "2026-03-04", "condition": "light rain", "temperature_min_c": 9,
                               "temperature_max_c": 14, "rain_probability_percent": 80, "source": "open-meteo.com"}
    set_reminder              {"text": "take the umbrella", "time": "2026-03-04 18:00", "file": "reminder-20260304-1800.ics"}
    any error                 {"error": "there is no file MEMORY.md"}
"""

from __future__ import annotations

from typing import Any

Declaration = dict[str, Any]


def _tool(name: str, description: str, required: dict[str, str], optional: dict[str, str] | None = None) -> Declaration:
    """One declaration; `required` and `optional` have the parameters' descriptions by name. Every parameter is a string."""
    properties = {
        parameter: {"type": "string", "description": about} for parameter, about in {**required, **(optional or {})}.items()
    }
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


_PATH = "Path of the file inside the working folder"

TOOLS: tuple[Declaration, ...] = (
    _tool("read_file", "Read a text file in the working folder.", {"path": _PATH}),
    _tool(
        "write_file",
        "Write a text file in the working folder. What the file held before is replaced.",
        {"path": _PATH, "content": "The whole new text of the file"},
    ),
    _tool(
        "append_file",
        "Add text on a new line at the end of a file in the working folder. The file is made when it is not there.",
        {"path": _PATH, "content": "The text to add"},
    ),
    _tool(
        "get_weather",
        "Get the weather forecast of a city for one day.",
        {"city": "Name of the city"},
        {"date": "The day: today, tomorrow or a date such as 2026-03-04; today when left out"},
    ),
    _tool(
        "set_reminder",
        "Set a reminder for the user.",
        {"text": "What to remind the user of", "time": "When, as the user said it"},
    ),
)
NAMES = tuple(str(tool["function"]["name"]) for tool in TOOLS)

SYSTEM = "You are an agent that works in one folder with the tools at hand. When the work is done, say what you did."
