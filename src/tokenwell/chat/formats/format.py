"""What a chat format is: a table. The parser reads answers by it, the grammar is made from it, calls are written with it.

A spelling is text as a template prints it. Strings in it that are special tokens of the tokenizer ("marks") are recognised by
token id and never as text, so that markup which a user quotes is not taken for markup. Data only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Syntax = Literal["json", "gemma", "xml"]


@dataclass(frozen=True, slots=True)
class Thinking:
    """How reasoning is set off from the answer."""

    open: str
    close: str
    label: str = ""  # directly behind `open`, part of neither: "thought\n"
    padding: tuple[str, str] = ("", "")  # what a template prints behind `open` and before `close` around the thought
    after: str = ""  # what follows `close` before the answer


@dataclass(frozen=True, slots=True)
class Call:
    """One spelling of tool calls: begin (before NAME between ARGUMENTS after, joined by `separator`) end.

    With `envelope` a call is a JSON object whose keys for name and arguments these are. Then the spelling says how the object
    is written, and reading takes any key order and white space.
    """

    before: str
    between: str
    arguments: Syntax
    after: str
    begin: str = ""
    end: str = ""
    separator: str = ""
    envelope: tuple[str, str] | None = None
    whole: bool = False  # calls count only at the start of the answer: they are no more than JSON without any mark
    single: bool = False  # one call an answer, as the turn ends with it
    call_id: str = ""  # a mark behind the name that an id follows, which is read over


@dataclass(frozen=True, slots=True)
class Channels:
    """A format that puts every message behind a header (harmony): start role … message BODY end."""

    start: str
    message: str
    channel: str
    constrain: str
    ends: tuple[str, ...]
    kinds: tuple[tuple[str, Literal["reasoning", "content"]], ...]  # channel name -> what its body is; others are content
    recipient: str  # a header with ` to=` and this prefix is a call; the body is its arguments


@dataclass(frozen=True, slots=True)
class Format:
    """A chat format.

    `marks` are all strings of the spellings that are special tokens wherever a checkpoint has them as such. `calls` are the
    spellings that are read; the first that the checkpoint's template prints is the one that is written. `mixed`: spellings of
    other formats that models of this one slip into behind the same mark; they are read, and never proof of the format.
    `starts`: when the rendered prompt, without white space at its end, ends so, an answer starts inside reasoning.
    """

    name: str
    marks: tuple[str, ...] = ()
    thinking: Thinking | None = None
    calls: tuple[Call, ...] = ()
    mixed: tuple[Call, ...] = ()
    channels: Channels | None = None
    starts: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()  # when a chat template holds all of these, it is written for this format
