"""Dialogues packed into rows of a fixed length, ready to train on. Knows no model and no card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from training import tokenizer
from training.dialogue import Dialogue
from training.render import render

IGNORED = -100  # a target that is not learned
DIALOGUES = 16  # at most in a row
LONGEST = 4096  # tokens of a dialogue at most; the filling of a row is cut into pieces of this length
_OPEN = 12  # rows that are filled at a time
_TOGETHER = 32  # dialogues that are tokenised at a time


@dataclass
class Row:
    """A row that is being filled."""

    ids: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)  # of its dialogues
    sources: list[int] = field(default_factory=list)  # which dialogues, counted from the first that was given

    def add(self, source: int, ids: list[int], learned: list[bool]) -> None:
        self.ids += ids
        self.learned += learned
        self.lengths.append(len(ids))
        self.sources.append(source)


@dataclass(frozen=True)
class Batch:
    """One step's rows.

    ids, documents: [rows, tokens]; documents count the dialogues of a row, the pieces of filling behind them are some more.
    places: flat positions whose next token is learned, filled up with zeros; targets: these tokens, IGNORED for filling.
    sources: of every place, the dialogue it belongs to, counted from the first that was given.
    """

    ids: NDArray[numpy.int32]
    documents: NDArray[numpy.int32]
    places: NDArray[numpy.int64]
    targets: NDArray[numpy.int64]
    sources: NDArray[numpy.int64]

    @property
    def tokens(self) -> int:
        """Tokens of dialogues: what is not filling."""
        return int((self.ids != 0).sum())

    @property
    def learned(self) -> int:
        return int((self.targets != IGNORED).sum())


def tokens_of(dialogues: list[Dialogue]) -> list[tuple[list[int], list[bool]]]:
    """Token ids of each dialogue, and which of them the assistant wrote."""
    rendered = [render(each) for each in dialogues]
    encoded = iter(tokenizer.encode([text for pieces in rendered for text, _ in pieces]))
    found = []
    for pieces in rendered:
        ids: list[int] = []
        learned: list[bool] = []
        for _, learn in pieces:
            piece = next(encoded)
            ids += piece
            learned += [learn] * len(piece)
        found.append((ids, learned))
    return found


def rows(dialogues: Iterable[Dialogue], row_tokens: int) -> Iterator[Row]:
    """Rows of whole dialogues, each put into the fullest open row that has room; the last ones are given when all is in.

    Dialogues that are longer than a row, or than LONGEST, are left out.
    """
    filling: list[Row] = [Row() for _ in range(_OPEN)]
    for source, ids, learned in _tokenised(dialogues):
        if len(ids) > min(row_tokens, LONGEST):
            continue
        fitting = [row for row in filling if len(row.ids) + len(ids) <= row_tokens and len(row.lengths) < DIALOGUES]
        if not fitting:
            fullest = max(filling, key=lambda row: len(row.ids))
            yield fullest
            filling.remove(fullest)
            filling.append(Row())
            fitting = filling[-1:]
        max(fitting, key=lambda row: len(row.ids)).add(source, ids, learned)
    yield from (row for row in filling if row.ids)


def batches(dialogues: Iterable[Dialogue], count: int, row_tokens: int, room: int) -> Iterator[Batch]:
    """Batches of `count` rows with room for `room` learned tokens; the last one may have empty rows."""
    waiting: list[Row] = []
    for row in rows(dialogues, row_tokens):
        waiting.append(row)
        if len(waiting) == count:
            yield _batch(waiting, count, row_tokens, room)
            waiting = []
    if waiting:
        yield _batch(waiting, count, row_tokens, room)


def _tokenised(dialogues: Iterable[Dialogue]) -> Iterator[tuple[int, list[int], list[bool]]]:
    some: list[Dialogue] = []
    given = 0
    for each in dialogues:
        some.append(each)
        if len(some) == _TOGETHER:
            for ids, learned in tokens_of(some):
                yield given, ids, learned
                given += 1
            some = []
    for ids, learned in tokens_of(some):
        yield given, ids, learned
        given += 1


def _batch(filled: list[Row], count: int, row_tokens: int, room: int) -> Batch:
    ids = numpy.zeros((count, row_tokens), numpy.int32)
    documents = numpy.tile(numpy.arange(row_tokens, dtype=numpy.int32) // LONGEST, (count, 1))  # all filling
    learned = numpy.zeros((count, row_tokens), bool)
    sources = numpy.zeros((count, row_tokens), numpy.int64)
    for number, row in enumerate(filled):
        used = len(row.ids)
        ids[number, :used] = row.ids
        learned[number, :used] = row.learned
        documents[number] = len(row.lengths) + numpy.maximum(numpy.arange(row_tokens) - used, 0) // LONGEST
        documents[number, :used] = numpy.repeat(numpy.arange(len(row.lengths)), row.lengths)
        sources[number, :used] = numpy.repeat(row.sources, row.lengths)
    at = numpy.flatnonzero(learned)[:room]  # a dialogue's first token is never learned, so every one has a token before it
    places, targets, owners = (numpy.zeros(room, numpy.int64) for _ in range(3))
    targets[:] = IGNORED
    places[: len(at)] = at - 1
    targets[: len(at)] = ids.reshape(-1)[at]
    owners[: len(at)] = sources.reshape(-1)[at]
    return Batch(ids, documents, places, targets, owners)
