"""Which prompts were seen: how much of a new one a real engine would have found in its prefix cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence


class Prefixes:
    """Remembers the last `pages` pages of `page_tokens` tokens, each by everything up to its end."""

    def __init__(self, page_tokens: int, pages: int) -> None:
        self._page_tokens = page_tokens
        self._most = pages
        self._seen: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        """Pages that are remembered."""
        return len(self._seen)

    def reuse(self, prompt: Sequence[int]) -> int:
        """Tokens at the prompt's start that are known, in whole pages and never all of them; all are known from now on."""
        known, unbroken = 0, True
        for page in self._pages(prompt):
            unbroken = unbroken and page in self._seen
            known += self._page_tokens if unbroken else 0
            self._seen[page] = None
            self._seen.move_to_end(page)
        while len(self._seen) > self._most:
            self._seen.popitem(last=False)
        # As in a real engine, the last token is computed: its logits are where the answer comes from.
        return known if known < len(prompt) else known - self._page_tokens if known else 0

    def _pages(self, prompt: Sequence[int]) -> Iterator[int]:
        page = 0
        for start in range(0, len(prompt) - self._page_tokens + 1, self._page_tokens):
            page = hash((page, *prompt[start : start + self._page_tokens]))
            yield page
