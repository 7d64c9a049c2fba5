"""Words in place of others: a request, a description and a tool's name then say the same thing in different words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from training.pseudo import pick
from training.spelling import capital

_ARTICLE = re.compile(r"(^|\s)an? $")


class Synonyms:
    """A table of words or phrases and what may stand in their place. The first letter keeps its case."""

    def __init__(self, table: Mapping[str, Sequence[str]], language: str) -> None:
        self._table = table
        phrases = _any(table)
        edge = "" if language == "zh" else r"(?<![\w'-])"
        end = "" if language == "zh" else r"(?![\w'-])"
        self._found = re.compile(f"{edge}({phrases}){end}", re.IGNORECASE) if table else None
        self._cut: dict[str, tuple[str, ...]] = {}

    def vary(self, random: Random, text: str, share: float = 0.3) -> str:
        """The text, each known word replaced with this chance."""
        pieces = self._cut.get(text)
        if pieces is None:
            pieces = self._cut[text] = tuple(self._found.split(text)) if self._found else (text,)
        if len(pieces) == 1:
            return text
        made = pieces[0]
        for place in range(1, len(pieces), 2):
            found = pieces[place]
            if random.random() < share:
                found = self._other(random, found)
                made = _ARTICLE.sub(r"\1an " if found[0] in "aeiouAEIOU" else r"\1a ", made)
            made += found + pieces[place + 1]
        return made

    def _other(self, random: Random, word: str) -> str:
        new = pick(random, self._table[word] if word in self._table else self._table[word.lower()])
        return capital(new) if word[:1].isupper() else new

    def word(self, random: Random, word: str) -> str:
        """One word of an identifier."""
        fitting = [new for new in self._table.get(word, ()) if new.isalpha() and new.islower()]
        return pick(random, fitting) if fitting else word


def _any(phrases: Iterable[str]) -> str:
    """A pattern of any of the phrases, the longest that fits: letter by letter, since thousands beside one another are slow."""
    rests: dict[str, list[str]] = {}
    for phrase in phrases:
        rests.setdefault(phrase[:1], []).append(phrase[1:])
    ended = rests.pop("", None) is not None
    branches = "|".join(re.escape(letter) + _any(more) for letter, more in rests.items())
    return branches and f"(?:{branches}){'?' * ended}"
