"""Judges what a model did with a task. Pure: knows no endpoint; the conversation is led by whoever asks the model.

A Trial is one attempt at a task. It is told each of the model's answers, and says what the tools return and what the user says
next; in the end it has a verdict. Calls are compared strictly where the request says every word of them, and by the words that
they must contain where a good model may choose its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenwell.readiness.folder import NAMES, Folder
from tokenwell.readiness.match import argument_has, found, has_words, same, silent
from tokenwell.readiness.task import Call, File, Task, Turn, Words

MOST_ANSWERS = 6  # of the model to one message of the user; the longest script needs three
_HARMLESS = ("read_file", "get_weather")  # what may be looked up without having been asked for
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


@dataclass(frozen=True)
class Made:
    """A call as a model made it; `arguments` is text that should be JSON."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Verdict:
    """passed: the task is done. malformed: calls that no tool could carry out. expected and got: for people, when not passed."""

    passed: bool
    malformed: int = 0
    expected: str = ""
    got: str = ""


class Trial:
    """One attempt at a task."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.malformed = 0
        self._folder = Folder(task.files)
        self._turn = 0
        self._answers = 0
        self._open = _calls_of(task.turns[0])
        self._done: list[Call] = []
        self._fault: tuple[str, str] | None = None  # expected, got

    @property
    def user(self) -> str | None:
        """What the user says now; None when the task is over."""
        if self._fault is not None or self._turn == len(self.task.turns):
            return None
        return self.task.turns[self._turn].user

    def answered(self, text: str, calls: Sequence[Made]) -> list[str] | None:
        """Take an answer of the model. Returns the results of its calls, or None when it is the user's turn or all is over."""
        self._answers += 1
        self.malformed += sum(wrong(self.task, call) is not None for call in calls)
        if self.task.kind == "single":
            self._judge_single(text, calls)
            return None
        if calls and not self._called(text, calls):
            return None
        if calls:
            return [self._result(call) for call in calls]
        self._said(text)
        return None

    def gave_up(self, why: str) -> None:
        """The endpoint did not answer."""
        self._fail(self._wanted(), why)

    def verdict(self) -> Verdict:
        """Only once the task is over."""
        if self._fault is None:
            return Verdict(True, self.malformed)
        expected, got = self._fault
        return Verdict(False, self.malformed, expected, got)

    # -------------------------------------------------------------------------------- one answer

    def _judge_single(self, text: str, calls: Sequence[Made]) -> None:
        self._turn = len(self.task.turns)
        if len(calls) != 1 or not self._matches(self._open[0], calls[0]):
            self._fail(told_call(self._open[0]), _told(text, calls))

    def _called(self, text: str, calls: Sequence[Made]) -> bool:
        """Whether the conversation goes on after these calls."""
        if self.task.kind == "talk":
            self._fail("an answer without a call", _told(text, calls))
        elif self._answers > MOST_ANSWERS:
            self._fail(self._wanted(), f"still calling after {MOST_ANSWERS} answers: {_told(text, calls)}")
        else:
            extra = [call for call in calls if not self._is_due(call)]
            if extra:
                self._fail(self._wanted(), f"{_told('', extra)}, which nobody asked for")
        return self._fault is None

    def _matches(self, expected: Call, call: Made) -> bool:
        return matches(expected, call, self.task.parameters(call.name))

    def _is_due(self, call: Made) -> bool:
        """Whether a call is expected now, was made before, changes nothing, or cannot be carried out and so changes nothing."""
        if wrong(self.task, call) is not None or call.name in _HARMLESS or call.name in NAMES:
            return True  # what is done to files is judged by what they are like in the end
        return any(self._matches(known, call) for known in (*self._open, *self._done))

    def _result(self, call: Made) -> str:
        fault = wrong(self.task, call)
        if fault is not None:
            return json.dumps({"error": fault}, ensure_ascii=False)
        known = next((each for each in self._open if self._matches(each, call)), None)
        if known is not None:
            self._open.remove(known)
            self._done.append(known)
        if call.name in NAMES:
            return self._folder.run(call.name, json.loads(call.arguments))
        known = known or next((each for each in self._done if self._matches(each, call)), None)
        return known.result if known is not None else json.dumps({"error": "not available"})

    def _said(self, text: str) -> None:
        """A text without calls ends the turn."""
        turn = self.task.turns[self._turn]
        missing = [call for call in self._open if call.name not in NAMES]
        got = text.strip() or "an empty answer"
        if missing:
            self._fail(told_call(missing[0]), got)
        elif not text.strip():
            self._fail("a text", got)
        elif not has_words(text, turn.says):
            self._fail("a text with " + _told_words(turn.says), got)
        elif any(found(text, word) for word in turn.lacks):
            self._fail("a text without " + ", ".join(repr(word) for word in turn.lacks), got)
        else:
            self._turn += 1
            self._answers = 0
            if self._turn < len(self.task.turns):
                self._open = _calls_of(self.task.turns[self._turn])
            else:
                self._check_files()

    def _check_files(self) -> None:
        for path in sorted({*self.task.files, *self.task.end, *self._folder.files}):
            end = self.task.end.get(path)
            text, before = self._folder.files.get(path, ""), self.task.files.get(path)
            fault = file_fault(end, text) if end else (None if text == before else "unchanged")
            if fault:
                self._fail(f"{path} {fault}", repr(text))
                return

    def _fail(self, expected: str, got: str) -> None:
        if self._fault is None:
            self._fault = (expected, got)

    def _wanted(self) -> str:
        return ", then ".join(told_call(call) for call in self._open) or "an answer"


# ------------------------------------------------------------------------------------------------ calls


def wrong(task: Task, call: Made) -> str | None:
    """Why no tool could carry out a call; None when one could."""
    schema = task.parameters(call.name)
    if schema is None:
        return f"there is no tool {call.name}"
    try:
        given = json.loads(call.arguments)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return "the arguments are no JSON object"
    return misfit(given, schema)


def misfit(value: Any, schema: Mapping[str, Any], place: str = "") -> str | None:
    """Where a value does not fit a schema of the kind that tools have: type, properties, required, items, enum."""
    kind = schema.get("type")
    if isinstance(kind, str) and not _is_a(value, kind):
        return f"{place or 'the value'} is no {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{place} is none of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, dict):
        return _misfit_inside(value, schema, place)
    if isinstance(value, list) and "items" in schema:
        return next(filter(None, (misfit(item, schema["items"], f"{place}[{at}]") for at, item in enumerate(value))), None)
    return None


def _misfit_inside(value: Mapping[str, Any], schema: Mapping[str, Any], place: str) -> str | None:
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{place}{'.' if place else ''}{name} is missing"
    for name, item in value.items():
        inside = f"{place}{'.' if place else ''}{name}"
        if name not in properties:
            return f"{inside} is not declared"
        if item is None and name not in schema.get("required", ()):
            continue  # how clients that must give every argument leave one out
        if (fault := misfit(item, properties[name], inside)) is not None:
            return fault
    return None


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES.get(kind, (object,))) or (
        kind == "integer" and isinstance(value, float) and value.is_integer()
    )


def matches(expected: Call, made: Made, schema: Mapping[str, Any] | None = None) -> bool:
    """Whether a call is the expected one: its name and all its arguments. schema: of the tool's arguments, as declared."""
    if made.name != expected.name:
        return False
    try:
        given = json.loads(made.arguments)
    except (ValueError, RecursionError):
        return False
    if not isinstance(given, dict):
        return False
    properties: Mapping[str, Any] = (schema or {}).get("properties", {})
    optional = set(properties) - set((schema or {}).get("required", ()))
    for name in {*given, *expected.arguments}:
        wanted = name in expected.arguments and name not in expected.spare
        if name in optional and not wanted and name in given and _says_nothing(given[name], properties[name]):
            continue
        if name not in given:
            if name in expected.spare or (name in optional and _says_nothing(expected.arguments[name], properties[name])):
                continue
            return False
        if name not in expected.arguments:
            return False
        if name in expected.words:
            if not argument_has(given[name], expected.words[name]):
                return False
        elif not same(expected.arguments[name], given[name], is_path=name == "path"):
            return False
    return True


def _says_nothing(value: Any, schema: Mapping[str, Any]) -> bool:
    """An empty text where one of a few is wanted is no way of leaving it out: no tool could take it."""
    return silent(value, schema) and (value is None or misfit(value, schema) is None)


# ------------------------------------------------------------------------------------------------ texts and files


def file_fault(end: File, text: str) -> str | None:
    """What is wrong with a file's text at the end; None when nothing is."""
    rest = [line.strip() for line in text.splitlines() if line.strip()]
    if "" in end.keeps:
        gap = end.keeps.index("")
        before, after = list(end.keeps[:gap]), list(end.keeps[gap + 1 :])
        if rest[: len(before)] != before or rest[len(rest) - len(after) :] != after:
            return "with all its other lines as they were"
        rest = rest[len(before) : len(rest) - len(after)]
    else:
        for line in end.keeps:
            if line not in rest:
                return f"with the line {line!r} as it was"
            rest.remove(line)
    fresh = "\n".join(rest)
    if not has_words(fresh, end.says):
        return "with new text that has " + _told_words(end.says)
    left = [word for word in end.lacks if found(fresh, word)]
    return f"without {left[0]!r}" if left else None


def _calls_of(turn: Turn) -> list[Call]:
    return [call for calls in turn.rounds for call in calls]


# ------------------------------------------------------------------------------------------------ for people


def told_call(call: Call) -> str:
    """An expected call on one line."""
    given = {
        name: f"... {_told_words(call.words[name])} ..." if name in call.words else value
        for name, value in call.arguments.items()
    }
    return f"{call.name} {json.dumps(given, ensure_ascii=False)}"


def _told(text: str, calls: Sequence[Made]) -> str:
    told = ", ".join(f"{call.name} {call.arguments}" for call in calls)
    return told or text.strip() or "an empty answer"


def _told_words(groups: Words) -> str:
    return " and ".join(" or ".join(group[:4]) for group in groups)
