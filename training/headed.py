"""A name with a noun behind that says what it is, and is no part of it: "the dahlia bed", where the tool wants the bed's name.

A tool gets such a noun for one of its names, in some of its requests, and in its declaration: which noun it is helps no more,
only reading that the declaration has it does.
"""

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from random import Random

from training import pseudo
from training.details import called
from training.pseudo import pick
from training.spelling import capital
from training.wording import PAUSES
from training.world import Frame, Parameter, ToolWords, Words

_USUAL = 2  # names that end in a word, so that it counts as a noun
_DETERMINED = ("the", "a", "an", "my", "our", "your", "his", "her", "their", "this", "that", "every", "each")
# What may follow in English, so that no two nouns meet.
# fmt: off
_FOLLOWING = frozenset((
    "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does", "for", "from", "gets", "goes",
    "had", "has", "have", "if", "in", "into", "is", "it", "keep", "may", "might", "must", "needs", "now", "on", "onto", "or",
    "please", "right", "should", "so", "than", "that", "to", "today", "tomorrow", "tonight", "until", "wants", "was", "were",
    "when", "which", "will", "with", "would",
))
# fmt: on
_OPEN = frozenset("的在要是有到从把被给跟和吧吗呢了也都还能可会该就才再，。？！；：、—（ ")  # and in Chinese
_VERBAL = re.compile("...(?:ed|ing|ly)$")
_SAID = {
    "en": ("The {}", "Which {}", "Name of the {}", "The {}'s name", "{}", ""),
    "zh": ("哪个{}", "{}", "{}的名称", "{}名", "要用的{}"),
}
_BELONGING = {
    "en": ("{1} of the {0}", "{1} that the {0} belongs to", "{1}; there is one {0} for each"),
    "zh": ("这个{0}所属的{1}", "{0}对应的{1}", "{1}（每个{1}有一个{0}）"),
}


def headed(random: Random, words: Words, tool: ToolWords) -> ToolWords:
    """The tool with a noun behind one of its required names; as it was where there is no such name or no room for a noun."""
    named = [leaf for leaf in tool.parameters if leaf.required and leaf.kind in words.names and not leaf.stated]
    if not named:
        return tool
    leaf = pick(random, named)
    noun = _noun(random, words, leaf)
    told = "".join((*tool.descriptions, *(text for frame in (*tool.requests, *tool.incomplete) for text in frame[::2])))
    if noun in told.lower():
        return tool
    requests = tuple(_behind(words.language, frame, leaf.slot, noun) for frame in tool.requests)
    with_noun = tuple(made for made, frame in zip(requests, tool.requests, strict=True) if made != frame)
    if not with_noun:
        return tool
    parameters = tuple(_declared(random, words.language, one, noun) if one is leaf else one for one in tool.parameters)
    return replace(tool, requests=(*tool.requests, *with_noun, *with_noun), parameters=parameters)


def _declared(random: Random, language: str, leaf: Parameter, noun: str) -> Parameter:
    """The parameter by the noun's name, or by its own with the noun in its description."""
    own = called(language, leaf, leaf.names[0])
    if own and random.random() < 0.3:
        texts = tuple(text.format(noun, own) for text in _BELONGING[language])
        return replace(leaf, descriptions=tuple(map(capital, texts)), stated=True)
    texts = tuple(text.format(noun) for text in _SAID[language])
    if language == "zh":
        return replace(leaf, names=(*leaf.names, pseudo.word(random)), descriptions=texts, stated=True)
    names = (noun, noun, f"{noun}_name", f"which_{noun}", f"{noun}_label")
    return replace(leaf, names=names, descriptions=tuple(map(capital, texts)))


def _behind(language: str, frame: Frame, slot: str, noun: str) -> Frame:
    """The request with the noun behind a slot; as it was where that would read badly."""
    pieces = list(frame)
    places = [place for place in range(1, len(pieces), 2) if pieces[place] == slot]
    if len(places) != 1:
        return frame
    (place,) = places
    before, after = pieces[place - 1], pieces[place + 1]
    if language == "zh":
        if after and after[0] not in _OPEN:
            return frame
        pieces[place + 1] = noun + after
        return tuple(pieces)
    last = before.split()[-1].lower() if before.strip() else ""
    following = after.split()[0].strip(".,?!:;").lower() if after.strip() else ""
    if (before and before[-1] != " ") or (after[:1] not in PAUSES and after[:1] != " ") or last in ("a", "an"):
        return frame
    if after[:1] == " " and following not in _FOLLOWING:
        return frame
    if last not in _DETERMINED:
        pieces[place - 1] = before + ("The " if before.rstrip()[-1:] in ("", *".?!") else "the ")
    pieces[place + 1] = f" {noun}{after}"
    return tuple(pieces)


def _noun(random: Random, words: Words, leaf: Parameter) -> str:
    """A noun that no name of the parameter ends in."""
    names = words.names[leaf.kind]
    for _ in range(0 if random.random() < 0.2 else 8):
        noun = pick(random, nouns(words))
        fixed = words.synonyms.vary(random, noun, 1.0) == noun  # the request must not say another one
        if fixed and not any(_end(words.language, name) == noun for name in names):
            return noun
    return pseudo.word(random) if words.language == "en" else pseudo.han(random, 2)


@cache
def nouns(words: Words) -> tuple[str, ...]:
    """What several names of things and places end in: "bed", "shelf"; in Chinese two characters."""
    names = {name for some in words.names.values() for name in some}
    ends = Counter(_end(words.language, name) for name in names)
    return tuple(sorted(end for end, count in ends.items() if end and count >= _USUAL))


def _end(language: str, name: str) -> str:
    """The noun that a name ends in; nothing where it is one word or looks like no noun."""
    if language == "zh":
        end = name[-2:]
        noun = len(name) > 3 and all("\u4e00" <= letter <= "\u9fff" and letter not in pseudo.LOOSE for letter in end)
    else:
        end = name.rpartition(" ")[2] if " " in name else ""
        noun = len(end) > 2 and end.isascii() and end.isalpha() and end.islower() and not _VERBAL.search(end)
    return end if noun else ""
