"""Names that nobody has, in all shapes: what a value is cannot be known then, only where it begins and where it ends.

"Salt and Lanterns", "33 Pilgrim's Way", "fiddle-leaf fig", "How to Mend a Clock", 灯塔与核桃, Mirno茶杯88号.
"""

import re
from collections.abc import Mapping
from random import Random
from typing import Any

from training import pseudo
from training.disguise import vocabulary
from training.leaves import strings
from training.pseudo import pick
from training.spelling import capital
from training.world import Words


def shape(random: Random, words: Words, capitals: bool) -> str:
    """A name of one to six words, or of two to nine characters."""
    page = words.pages["shapes"]
    while True:
        text = _filled(random, words, page, pick(random, page["shapes"]), nouns(words))
        if words.language == "zh":
            if _kept(text):
                continue
            return text
        if not capitals:
            return text
        named = " ".join(part if part in page["small"] else capital(part) for part in text.split(" "))
        return capital(named)


def _kept(text: str) -> bool:
    """Whether a Chinese text holds a name that is kept for the other world, or makes one behind 上; halves of two words may."""
    return "上海" in text or "伞" in text or text.startswith("海")


def free_text(random: Random, words: Words, kind: str) -> str:
    """A sentence that nobody says."""
    page = words.pages["shapes"]
    free = page["free"]
    while True:
        text = _filled(random, words, page, pick(random, free.get(kind, free["text"])), vocabulary(words))
        if not _kept(text):
            return text


def _filled(random: Random, words: Words, page: Mapping[str, Any], text: str, known: tuple[str, ...]) -> str:
    made = ""
    for piece in text.split("<"):
        mark, closed, rest = piece.partition(">")
        made += _part(random, page, mark, known) + rest if closed else piece
    return made


def _part(random: Random, page: Mapping[str, Any], mark: str, known: tuple[str, ...]) -> str:
    if mark in "abc":
        return pick(random, known)
    if mark == "N":
        return str(32 + int(random.random() * 968))
    if mark == "n":
        return str(1 + int(random.random() * pick(random, (9, 99, 999))))
    if mark[0] == "h":
        return pseudo.han(random, int(mark[1]))
    if mark in "dw":
        return str(pick(random, page["before" if mark == "d" else "streets"]))
    return pseudo.word(random).capitalize() if mark == "P" else pseudo.word(random)


# A name does not end with one of these.
_UNFINISHED = re.compile(
    r"(?:"
    r"the|a|an|my|our|your|his|her|this|that|some|any|two|three|of|to|for|in|on|at|by|with|from|and|or|&|-|"
    r"mr|mrs|ms|dr|prof|st|de|la|le|van|von|der|den|el|al|new|old|big|little|great|how|what|who|why|no|not|"
    r"is|are|own|all|last|too|we|you|when|under|over|into|about|after|before|without|des|du|v|x|miss|sir|"
    r"saint|aunt|uncle|captain|mount"
    r")\.?",
    re.IGNORECASE,
)


def stretched(random: Random, words: Words, text: str) -> str:
    """A known name made longer or shorter, so that knowing it does not tell where it ends."""
    chance, known = random.random(), nouns(words)
    if words.language == "zh":
        if chance < 0.2 and len(text) > 2 and text[-2] not in pseudo.LOOSE and text[-2] not in "小大新":
            return text[:-1].rstrip()
        more = pick(random, known) if random.random() < 0.5 else pseudo.han(random, pick(random, (1, 2, 3)))
        made = more + text if chance < 0.5 else text + more
        return text if _kept(made) else made
    parts = text.split(" ")
    if chance < 0.2 and len(parts) > 1 and not _UNFINISHED.fullmatch(parts[-2]):
        return " ".join(parts[:-1])
    more = pick(random, known) if random.random() < 0.6 else pseudo.word(random)
    if parts[-1][:1].isupper():
        more = capital(more)
    return f"{more} {text}" if chance < 0.5 else f"{text} {more}"


_nouns: list[tuple[Words, tuple[str, ...]]] = []  # a few worlds and languages


def nouns(words: Words) -> tuple[str, ...]:
    """The words that names are made of: in Chinese none that also stands beside a slot, or a name's end could not be known."""
    if words.language != "zh":
        return vocabulary(words)
    for known, found in _nouns:
        if known is words:
            return found
    literals = [text for tool in words.tools for text in (*tool.requests, *tool.incomplete)]
    literals += [text for tool in words.tools for leaf in tool.leaves() for text in leaf.clauses]
    beside = {end for text in literals for piece in text[::2] for end in (piece[:2], piece[-2:])}
    beside |= {end for text in strings((words.pages, words.frames)) for pair in _ENDS.findall(text) for end in pair}
    invented = words.frames["invented"]
    beside |= {said for key in _SAID for entry in invented[key] for said in (*entry["said"], *entry.get("spoken", ()))}
    beside |= {text for tool in words.tools for leaf in tool.leaves() for text in leaf.descriptions}
    found = tuple(word for word in vocabulary(words) if word not in beside)
    _nouns.append((words, found))
    return found


_ENDS = re.compile(r"(..)\{|\}(..)")
_SAID = ("verb", "qualifier", "facet", "parameter", "enum")
