"""Whether text stands in a code fence, between backticks or behind a quote character: markup there is shown, not meant."""

from __future__ import annotations

import re

_TICKS_OR_LINE = re.compile(r"`+|\n")


class Quoting:
    """Follows a text that comes in pieces."""

    def __init__(self) -> None:
        self._fenced = 0  # how many backticks opened the fence that we are in
        self._inline = 0  # how many backticks opened the code that we are in
        self._blank = True  # nothing but white space stands in this line yet
        self._run = 0  # backticks at the end of what came
        self._run_first = False  # they begin their line
        self._last = ""

    def add(self, text: str) -> None:
        """More text has come."""
        if not text:
            return
        self._last = text[-1]
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

    def quotes(self) -> bool:
        """True when what comes next is quoted."""
        self._end_run()
        return self._fenced > 0 or self._inline > 0 or self._last in ('"', "'")
