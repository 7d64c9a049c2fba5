"""Compiled grammars: made in threads, because some take a second, and remembered by their text. Knows no rows and no tensors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tokenwell.engine.run.vocabulary import VocabularyError, describe

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_KEPT = 256  # grammars, and characters of all their texts together: a compiled one is some tens of times its text
_KEPT_CHARACTERS = 4_000_000
_THREADS = 2  # a slow grammar does not hold up the next one
_SHOWN = 500  # characters of the library's complaint


class GrammarError(Exception):
    """A grammar cannot be used; the message says why, in words for the client."""


class Grammars:
    """The grammars of one model. `submit` may be called from one thread, `compile` from any."""

    def __init__(self, folder: Path, width: int) -> None:
        """`folder` holds tokenizer.json; `width` logits does the model give. Costs nothing before the first call."""
        self.width = width
        self._folder = folder
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Future[LLMatcher]] = OrderedDict()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, "grammar")

    def submit(self, text: str) -> Future[LLMatcher]:
        """A matcher at the start of the grammar, to be copied before use; raises GrammarError when asked for its result.

        The same text brings the same matcher as long as it is remembered.
        """
        if (future := self._known.get(text)) is not None:
            self._known.move_to_end(text)
            return future
        future = self._known[text] = self._pool.submit(self.compile, text)
        while len(self._known) > 1 and (len(self._known) > _KEPT or sum(map(len, self._known)) > _KEPT_CHARACTERS):
            self._known.popitem(last=False)
        return future

    def prepare(self, alone: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Load the library and the vocabulary in the background, so that the first grammar does not wait for them.

        `alone` is entered meanwhile: the library reads a large vocabulary for seconds, in which no other thread of Python runs.
        """

        def load() -> tuple[LLTokenizer, int]:
            with alone():
                return self.tokenizer

        self._pool.submit(load)

    def compile(self, text: str) -> LLMatcher:
        """A new matcher at the start of the grammar. Raises GrammarError."""
        # Loaded behind the start, which it would make longer.
        from llguidance import LLMatcher

        tokenizer, _ = self.tokenizer
        matcher = LLMatcher(tokenizer, text, log_level=0, limits=_limits())
        if not matcher.is_error():
            # The first mask shows what cannot even begin, and copies inherit what it found out.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarError(f"The grammar cannot be used: {complaint(matcher)}")
        return matcher

    @property
    def tokenizer(self) -> tuple[LLTokenizer, int]:
        """The library's view of the vocabulary, and the id of its END token. Raises GrammarError."""
        with self._lock:  # made once; whoever needs it meanwhile waits
            return self._tokenizer

    @cached_property
    def _tokenizer(self) -> tuple[LLTokenizer, int]:
        from llguidance import LLTokenizer

        try:
            described, end = describe(self._folder, self.width)
            return LLTokenizer(described, n_vocab=max(self.width, end + 1), eos_token=end), end
        except (VocabularyError, ValueError) as error:
            raise GrammarError(f"This model cannot follow a grammar, because of its tokenizer: {error}") from error


def complaint(matcher: LLMatcher) -> str:
    """What is wrong with a matcher, without the dump of its state that the library adds."""
    text = matcher.get_error().split("<state>")[0].strip()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " ..."


def _limits() -> LLParserLimits:
    """Bounds of what one grammar may cost: about 100 MB, and some tens of milliseconds a step."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
