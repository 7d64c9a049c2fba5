"""Shows answers, calls and results on a terminal, as they come. What others wrote cannot steer the terminal."""

from __future__ import annotations

import re
import sys
from typing import TextIO

from tokenwell.agent.endpoint import Reply
from tokenwell.config.load import process_environment

LONGEST_RESULT = 2_000  # characters that are shown of a tool's result

# Control characters but tab and line end, what turns the direction of writing, and halves of characters.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def harmless(text: str) -> str:
    """The text with control characters spelled out."""
    return _UNSEEN.sub(lambda found: f"\\x{ord(found[0]):02x}", text.replace("\r\n", "\n"))


class Screen:
    """Writes to `out`, with styles where that is a terminal that has them (and NO_COLOR is not set).

    Each kind of text begins a line. Without `thinking`, what a model thinks is left out.
    """

    def __init__(self, out: TextIO | None = None, *, thinking: bool = True) -> None:
        self._out = out or sys.stdout
        self._thinking = thinking
        told = process_environment(["NO_COLOR", "TERM"])
        self._styled = self._out.isatty() and not told.get("NO_COLOR") and told.get("TERM") != "dumb"
        self._kind = ""  # of the piece before
        self._several = False  # calls in this turn: their results are told apart by name
        self._at_line_start = True

    def piece(self, kind: str, text: str) -> None:
        """A piece of an answer, as `Reply` gives it."""
        if kind == "thinking" and not self._thinking:
            return
        if kind == "call" or (kind != self._kind and kind != "arguments"):
            self.line_start()
        if kind == "call":
            text = f"> {text} "
        elif kind == "text" and self._at_line_start and self._kind != "text":
            text = text.lstrip("\n")
        self._kind = kind
        self._write(text, {"thinking": _DIM, "call": _BOLD}.get(kind, ""))

    def result(self, name: str, arguments: str, result: str) -> None:
        """What a call gave; the call itself was shown while it was written."""
        self.line_start()
        shown = result if len(result) <= LONGEST_RESULT else f"{result[:LONGEST_RESULT]} ... ({len(result)} characters)"
        lines = [*([name] if self._several else []), *shown.rstrip("\n").split("\n")]
        self._kind = "result"
        self._write("< " + "\n  ".join(lines) + "\n")

    def turn(self, reply: Reply) -> None:
        """An answer is over."""
        self.line_start()
        self._kind = ""
        self._several = len(reply.calls) > 1

    def note(self, text: str) -> None:
        """A line of our own."""
        self.line_start()
        self._kind = ""
        self._write(text + "\n", _DIM)

    def line_start(self) -> None:
        """End the line that was begun, if one was."""
        if not self._at_line_start:
            self._write("\n")

    def _write(self, text: str, style: str = "") -> None:
        if not text:
            return
        shown = harmless(text)
        self._out.write(f"{style}{shown}{_PLAIN}" if style and self._styled else shown)
        self._out.flush()
        self._at_line_start = shown.endswith("\n")


def pace(reply: Reply) -> str:
    """Tokens, speed and time to the first piece of an answer, as far as they are known, and whether it is whole."""
    words = [f"{reply.tokens} tokens"] if reply.tokens else []
    if reply.tokens_per_s is not None:
        words.append(f"{reply.tokens_per_s:.0f} tok/s")
    words.append(f"first after {reply.first_s:.2f} s" if reply.first_s else f"an empty answer after {reply.seconds:.2f} s")
    if reply.finish == "length":
        words.append("cut off: the model reached its limit of tokens")
    return ", ".join(words)
