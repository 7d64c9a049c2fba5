"""The text that readers read: it arrives in pieces, and a reader that needs more of it yields. Knows no syntax."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

_T = TypeVar("_T")

# A reader: straight code that yields while it waits for more text. Its result must depend on the text alone, never on the
# pieces, so whatever it decides by looking ahead it decides only when the text that it needs is there, or has ended.
Steps = Generator[None, None, _T]

SPACES = " \t\n\r"
# How much white space is looked through to see what follows, so that looking ahead costs little whatever comes.
LOOK = 64


class Source:
    """What has arrived and was not taken yet: `text` from `at` on."""

    def __init__(self, text: str = "", ended: bool = False) -> None:
        self.text = text
        self.at = 0
        self.ended = ended  # nothing more will come
        self.cut = False  # it ended because the answer was long enough, not because the model was done
        self._record: list[str] | None = None

    def add(self, text: str) -> None:
        """More text has come."""
        self.text = self.text[self.at :] + text
        self.at = 0

    def take(self, end: int) -> str:
        """Take what stands before `end`."""
        taken = self.text[self.at : end]
        self.at = end
        if self._record is not None:
            self._record.append(taken)
        return taken

    def give_back(self, text: str) -> None:
        """`text` was taken last, and is to be read again."""
        self.text = text + self.text[self.at :]
        self.at = 0

    def record(self) -> None:
        """Keep what is taken from here on, in case it must be given as text after all."""
        self._record = []

    def recorded(self) -> str:
        """What was taken since `record`; ends the recording."""
        taken, self._record = "".join(self._record or ()), None
        return taken

    def starts(self, words: tuple[str, ...]) -> Steps[str]:
        """Which of `words` stands here ("" for none); the longest, if several do."""
        if not words:
            return ""
        longest = max(map(len, words))
        while True:
            here = self.text[self.at : self.at + longest]
            if not self.ended and len(here) < longest and any(len(word) > len(here) and word.startswith(here) for word in words):
                yield
                continue
            return max((word for word in words if here.startswith(word)), key=len, default="")

    @property
    def here(self) -> str:
        """The next character when it is there, "" otherwise; cheaper than `peek`, which waits for it."""
        return self.text[self.at] if self.at < len(self.text) else ""

    def peek(self) -> Steps[str]:
        """The next character; "" at the end."""
        while self.at >= len(self.text):
            if self.ended:
                return ""
            yield
        return self.text[self.at]

    def skip(self, characters: str = SPACES) -> Steps[str]:
        """Take characters of this set; returns the next one, "" at the end."""
        while True:
            char = yield from self.peek()
            if not char or char not in characters:
                return char
            end, text = self.at + 1, self.text
            while end < len(text) and text[end] in characters:
                end += 1
            self.take(end)

    def skip_into(self, out: Callable[[str], None]) -> Steps[str]:
        """Like `skip`, with what is taken given to `out`."""
        while True:
            char = yield from self.peek()
            if not char or char not in SPACES:
                return char
            out(self.take(self.at + 1))
