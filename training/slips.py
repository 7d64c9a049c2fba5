"""Slips of the finger, as in messages typed in haste: letters lost, doubled or changed about, apostrophes and capitals left out.

Only what a request says around its values is touched, since a value is copied as it stands.
"""

import re
from random import Random

from training.pseudo import pick

_WORD = re.compile(r"([A-Za-z][a-z']{3,})")


def slipped(random: Random, frame: tuple[str, ...]) -> tuple[str, ...]:
    """A request cut at its slots, with a slip in about one of its longer English words in five."""
    return tuple(piece if place % 2 else _literal(random, piece) for place, piece in enumerate(frame))


def _literal(random: Random, text: str) -> str:
    pieces = _WORD.split(text)
    for place in range(1, len(pieces), 2):
        if random.random() < 0.2:
            pieces[place] = _word(random, pieces[place])
    return "".join(pieces)


def _word(random: Random, word: str) -> str:
    if "'" in word:
        return word.replace("'", "")
    at = 1 + int(random.random() * (len(word) - 2))
    return pick(
        random,
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[0].lower() + word[1:],
        ),
    )
