"""Names that nobody has, in all shapes: what a value is cannot be known then, only where it begins and where it ends.

"Salt and Lanterns", "33 Pilgrim's Way", "fiddle-leaf fig", "How to Mend a Clock", 灯塔与核桃, Mirno茶杯88号.
"""

from collections.abc import Mapping
from random import Random
from typing import Any

from training import pseudo
from training.disguise import vocabulary
from training.pseudo import pick
from training.world import Words


def shape(random: Random, words: Words, capital: bool) -> str:
    """A name of one to six words, or of two to nine characters."""
    page = words.pages["shapes"]
    while True:
        text = _filled(random, words, page, pick(random, page["shapes"]))
        if words.language == "zh":
            # Halves of two words may be a name that is kept for the other world.
            if "上海" in text or "伞" in text:
                continue
            return text
        if not capital:
            return text
        named = " ".join(part if part in page["small"] else part[:1].upper() + part[1:] for part in text.split(" "))
        return named[:1].upper() + named[1:]


def free_text(random: Random, words: Words, kind: str) -> str:
    """A sentence that nobody says."""
    page = words.pages["shapes"]
    free = page["free"]
    while True:
        text = _filled(random, words, page, pick(random, free.get(kind, free["text"])))
        if "上海" not in text and "伞" not in text:
            return text


def _filled(random: Random, words: Words, page: Mapping[str, Any], text: str) -> str:
    made = ""
    for piece in text.split("<"):
        mark, closed, rest = piece.partition(">")
        made += _part(random, words, page, mark) + rest if closed else piece
    return made


def _part(random: Random, words: Words, page: Mapping[str, Any], mark: str) -> str:
    if mark in "abc":
        return pick(random, vocabulary(words))
    if mark == "n":
        return str(1 + int(random.random() * pick(random, (9, 99, 999))))
    if mark[0] == "h":
        return pseudo.han(random, int(mark[1]))
    if mark in "dw":
        return str(pick(random, page["before" if mark == "d" else "streets"]))
    return pseudo.word(random).capitalize() if mark == "P" else pseudo.word(random)


def stretched(random: Random, words: Words, text: str) -> str:
    """A known name made longer or shorter, so that knowing it does not tell where it ends."""
    chance, known = random.random(), vocabulary(words)
    if words.language == "zh":
        if chance < 0.2 and len(text) > 2:
            return text[:-1]
        more = pick(random, known) if random.random() < 0.5 else pseudo.han(random, pick(random, (1, 2, 3)))
        made = more + text if chance < 0.5 else text + more
        return text if "上海" in made or "伞" in made else made
    parts = text.split(" ")
    if chance < 0.2 and len(parts) > 1:
        return " ".join(parts[:-1])
    more = pick(random, known) if random.random() < 0.6 else pseudo.word(random)
    if parts[-1][:1].isupper():
        more = more[:1].upper() + more[1:]
    return f"{more} {text}" if chance < 0.5 else f"{text} {more}"
