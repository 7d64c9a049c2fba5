"""Generated token ids to text, a few at a time: never half a character, never the start of a stop string.

For every way of cutting a list of ids into pieces the pieces' texts concatenate to the text of the whole list. Knows no
formats and no requests. A `Detokenizer` belongs to one stream and is not shared.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from tokenwell.chat.spelling import Spelling
from tokenwell.chat.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Text of one stream of ids, with stop strings.

    `stop`: the text ends before the first of these strings to be complete (after it with `include_stop`); they may span
    tokens. Text that could still become a stop string is held back. `continues`: the stream goes on from earlier text, so a
    SentencePiece space at its start is kept; otherwise it starts a text, as `Tokenizer.decode` does.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        continues: bool = False,
    ) -> None:
        skip = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._text = _text_stream(tokenizer, skip, continues)
        self._stops = _StopStrings(stop, include_stop) if any(stop) else None

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text; None while there was none."""
        return self._stops.hit if self._stops else None

    def feed(self, ids: Sequence[int]) -> str:
        """The text that is certain after these ids too; empty once stopped."""
        text = self._text.feed(ids)
        return self._stops.feed(text) if self._stops else text

    def flush(self) -> str:
        """What was held back, as something that is no text follows; the stream goes on behind it."""
        text = self._text.finish()
        return self._stops.feed(text) + self._stops.finish() if self._stops else text

    def finish(self) -> str:
        """What was held back. A character that was cut off becomes U+FFFD, as in the text of the whole list."""
        return self.flush()


class _TextStream(Protocol):
    def feed(self, ids: Sequence[int]) -> str: ...
    def finish(self) -> str: ...


def _text_stream(tokenizer: Tokenizer, skip: frozenset[int], continues: bool) -> _TextStream:
    spelling = tokenizer.spelling
    if spelling is None:
        return _Redecoding(tokenizer, skip)
    return _ByteLevel(tokenizer, skip) if spelling.byte_level else _SentencePiece(tokenizer, spelling, skip, continues)


class _ByteLevel:
    """Tokens are bytes; the text is their UTF-8."""

    def __init__(self, tokenizer: Tokenizer, skip: frozenset[int]) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._skip = skip
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Sequence[int]) -> str:
        skip = self._skip
        return self._decoder.decode(b"".join([self._bytes_of(id) for id in ids if id not in skip]))

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


class _SentencePiece:
    """Tokens are text; runs of byte tokens are characters only as a whole, so a run is held until it ends.

    The decoder of `tokenizers` gives one U+FFFD for each byte of a run that is not UTF-8 from its first byte to its last;
    to give a part of a run earlier could not be taken back.
    """

    def __init__(self, tokenizer: Tokenizer, spelling: Spelling, skip: frozenset[int], continues: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._run = bytearray()
        self._drop = "" if continues else spelling.first_drops
        self._strip = 0 if continues else spelling.strip
        self._strip_text = spelling.strip_text

    def feed(self, ids: Sequence[int]) -> str:
        piece_of = self._tokenizer.piece
        pieces: list[str] = []
        for id in ids:
            piece = None if id in self._skip else piece_of(id)
            if piece is None:
                continue
            if isinstance(piece, int):
                self._run.append(piece)
            else:
                if self._run:
                    pieces.append(self._end_run())
                pieces.append(self._first_text(id) if self._drop else piece)
            self._drop = ""
        return self._stripped("".join(pieces))

    def _first_text(self, id: int) -> str:
        return (self._tokenizer.token_of(id) or "").replace(self._drop, "")

    def finish(self) -> str:
        return self._stripped(self._end_run())

    def _end_run(self) -> str:
        run, self._run = self._run, bytearray()
        try:
            return run.decode("utf-8")
        except UnicodeDecodeError:
            return _REPLACEMENT * len(run)

    def _stripped(self, text: str) -> str:
        while self._strip and text:
            if text[0] != self._strip_text:
                self._strip = 0
            else:
                self._strip -= 1
                text = text[1:]
        return text


class _Redecoding:
    """For any other decoder: decode a window of tokens again and give what was added to it.

    The window starts with the tokens of the last piece, because a token's text may depend on the one before.
    """

    def __init__(self, tokenizer: Tokenizer, skip: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._window: list[int] = []
        self._given = 0  # tokens of the window whose text was given

    def feed(self, ids: Sequence[int]) -> str:
        self._window += [id for id in ids if id not in self._skip]
        text = self._added()
        if not text or text.endswith(_REPLACEMENT):
            return ""
        del self._window[: self._given]
        self._given = len(self._window)
        return text

    def finish(self) -> str:
        text = self._added()
        del self._window[: self._given]
        self._given = len(self._window)
        return text

    def _added(self) -> str:
        before = self._tokenizer.decode(self._window[: self._given], skip_special_tokens=False)
        return self._tokenizer.decode(self._window, skip_special_tokens=False)[len(before) :]


class _StopStrings:
    """Cuts a stream of text before the stop string that is complete first, whatever the pieces."""

    def __init__(self, stop: Sequence[str], include: bool) -> None:
        self._stops = [text for text in stop if text]
        self._firsts = {text[0] for text in self._stops}
        self._longest = max(map(len, self._stops))
        self._include = include
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        if self.hit is not None or not text:
            return ""
        text = self._held + text
        if found := self._first_complete(text):
            start, self.hit = found
            self._held = ""
            return text[: start + len(self.hit)] if self._include else text[:start]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held

    def _first_complete(self, text: str) -> tuple[int, str] | None:
        """(start, stop string) of the one that ends first; of two that end together, the longer."""
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if not found:
            return None
        _, start, stop = min(found)
        return start, stop

    def _possible_start(self, text: str) -> int:
        """Where the longest end of `text` begins that a stop string could start with; its length if there is none."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._firsts and any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)
