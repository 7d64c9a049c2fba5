"""A format bound to one tokenizer: which marks are tokens, and which of the spellings is written.

A mark that is a special token becomes one character of the low surrogates (U+DC00 on). Text that was decoded from UTF-8 can
never hold such a character, so the parser works on plain strings and still never takes text for a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tokenwell.chat.formats.format import Call, Format
from tokenwell.chat.formats.reading import Reading, reading

_FIRST = 0xDC00


@dataclass(frozen=True)
class Bound:
    """`marks`: mark -> its character, for those marks that are tokens; `ids`: the same by token id."""

    format: Format
    call: Call | None  # the spelling that calls are written in
    marks: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The format's name."""
        return self.format.name

    @cached_property
    def reading(self) -> Reading:
        """What the parser looks for."""
        calls = self.format.calls if self.call is None or self.call in self.format.calls else (self.call, *self.format.calls)
        return reading(self.format, calls, self.spelled, self.shown)

    def spelled(self, text: str) -> str:
        """`text` of a table with its marks as characters."""
        for mark, character in self.marks.items():
            text = text.replace(mark, character)
        return text

    def shown(self, text: str) -> str:
        """The reverse: what a person is shown."""
        if text.isascii():  # nearly all of it, and then nothing is to be looked for
            return text
        for mark, character in self.marks.items():
            text = text.replace(character, mark)
        return text


def bind(format: Format, special: Mapping[str, int], call: Call | None = None) -> Bound:
    """Bind to a tokenizer whose special tokens these are (text -> id)."""
    tokens = [mark for mark in format.marks if mark in special]
    marks = {mark: chr(_FIRST + index) for index, mark in enumerate(tokens)}
    own = call or (format.calls[0] if format.calls else None)
    return Bound(format, own, marks, {special[mark]: marks[mark] for mark in tokens})
