"""A task of the readiness test: what the user says, what the tools return, and what a good model does.

Knows no endpoint and no model. The tasks stand in tasks.jsonl, one a line; training/held_out.py writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import msgspec

Kind = Literal["single", "turns", "talk"]
Language = Literal["en", "zh"]
Words = tuple[tuple[str, ...], ...]  # of every group, one must occur

KINDS: dict[Kind, str] = {"single": "single calls", "turns": "multi-turn tasks", "talk": "no-tool prompts"}
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "Chinese"}


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that is expected. Its arguments must be equal, apart from those that `words` and `spare` name.

    words: what must occur in an argument instead; a time among them must be the only one there. spare: optional parameters that
    may also be left out.
    result: what the tool returns; file tools (folder.NAMES) return what the task's folder gives.
    """

    name: str
    arguments: dict[str, Any]
    result: str = ""
    words: dict[str, Words] = {}
    spare: tuple[str, ...] = ()


class Turn(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of the user, and what is to follow: rounds of calls, then a text.

    says: what the text must contain; lacks: what it must not. answer: a text that does, for measuring word by word.
    """

    user: str
    rounds: tuple[tuple[Call, ...], ...] = ()
    answer: str = ""
    says: Words = ()
    lacks: tuple[str, ...] = ()


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a file must be like in the end: these lines as they were, and in the other lines these words, and not those.

    Lines are without blanks around them, and empty lines do not count. Where `keeps` has an empty line, and only there, stand
    the other lines; without one they may stand anywhere.
    """

    keeps: tuple[str, ...] = ()
    says: Words = ()
    lacks: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task. files: the folder that file tools work in; end: what its files must be like in the end, others unchanged."""

    id: str
    kind: Kind
    category: str
    language: Language
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    system: str = ""
    files: dict[str, str] = {}
    end: dict[str, File] = {}

    def parameters(self, name: str) -> Mapping[str, Any] | None:
        """The schema of a declared tool's arguments; None when no tool is called so."""
        for tool in self.tools:
            if tool["function"]["name"] == name:
                schema: Mapping[str, Any] = tool["function"].get("parameters") or {"type": "object", "properties": {}}
                return schema
        return None


@cache
def tasks() -> tuple[Task, ...]:
    """All tasks that come with Tokenwell, in a fixed order."""
    lines = files("tokenwell.readiness").joinpath("tasks.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=Task) for line in lines)
