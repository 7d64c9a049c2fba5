"""Whether text stands in a code fence, between backticks or behind a quote character: markup there is shown, not meant."""

from __future__ import annotations

import re

_ENDS_SENTENCE = tuple(".,;:!?)]}")
_TICKS_OR_LINE = re.compile(r"`+|\n")


class Quoting:
    """Follows a text that comes in pieces."""

    def __init__(self) -> None:
        self._fenced = 0  # how many backticks opened the fence that we are in
        self._inline = 0  # how many backticks opened the code that we are in
        self._blank = True  # nothing but white space stands in this line yet
        self._run = 0  # backticks at the end of what came
        self._run_first = False  # they begin their line
        self._tail = ""  # the last two characters

    def add(self, text: str) -> None:
        """More text has come."""
        if not text:
            return
        self._tail = (self._tail + text)[-2:]
        if not self._run and "`" not in text and "\n" not in text:
            self._blank = self._blank and text.isspace()
            return
        place = 0
        for found in _TICKS_OR_LINE.finditer(text):
            self._between(text[place : found.start()])
            place = found.end()
            if found[0] == "\n":
                self._end_run()
                self._blank, self._inline = True, 0
            else:
                if not self._run:
                    self._run_first = self._blank
                self._run += len(found[0])
                self._blank = False
        self._between(text[place:])

    def _between(self, text: str) -> None:
        if text:
            self._end_run()
            self._blank = self._blank and text.isspace()

    def _end_run(self) -> None:
        run, self._run = self._run, 0
        if not run:
            return
        if run >= max(3, self._fenced) and self._run_first:
            self._fenced = 0 if self._fenced else run
            self._inline = 0
        elif not self._fenced:
            self._inline = 0 if self._inline == run else self._inline or run

    @property
    def fenced(self) -> bool:
        """What comes next stands in a code fence."""
        self._end_run()
        return self._fenced > 0

    @property
    def closer(self) -> str:
        """The character that closes what comes next as a quotation; "" when nothing is open."""
        self._end_run()
        if self._inline:
            return "`"
        # A quote character behind a word ends a quotation.
        opens = self._tail[-1:] in ('"', "'") and not (self._tail[:-1].isalnum() or self._tail[:-1] in _ENDS_SENTENCE)
        return self._tail[-1:] if opens else ""
