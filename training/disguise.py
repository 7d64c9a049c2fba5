"""Natural tools in disguise: a word of the tool is replaced by another wherever it stands, in requests and declaration alike.

"Book a table at {venue}" and book_table become "Book a glacier at {venue}" and book_glacier, or "Book a velmora ..." and
book_velmora. What the words mean helps no more: only reading which declaration has the words of the request does.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, lru_cache
from random import Random

from training import pseudo
from training.pseudo import pick
from training.spelling import name_words
from training.world import Frame, Parameter, ToolWords, Words

_WORD = re.compile(r"([A-Za-z]{3,})")
_ARTICLE = re.compile(r"\b([Aa])n? $")
# Words that mean nothing for a tool.
# fmt: off
_PLAIN = frozenset((
    "the", "and", "for", "with", "from", "that", "this", "what", "which", "when", "where", "how", "who", "whether", "into",
    "onto", "about", "not", "any", "all", "some", "one", "are", "was", "were", "has", "have", "had", "does", "did", "can",
    "could", "would", "should", "will", "shall", "may", "must", "need", "want", "like", "please", "tell", "give", "show",
    "get", "let", "make", "put", "take", "see", "know", "you", "your", "our", "his", "her", "their", "its", "them", "they",
    "user", "there", "here", "now", "more", "than", "then", "also", "only", "just", "out", "off", "over", "under",
    "between", "after", "before", "until", "near", "today", "time", "day", "date", "number", "name", "says", "said", "say",
    "saying", "called", "call", "new", "old", "much", "many", "few", "lot", "every", "each", "still", "again", "back",
    "long", "big", "high", "low", "far", "soon", "left", "right", "next", "first", "last", "own", "same", "other",
    "another", "something", "somebody", "somewhere", "nothing", "very", "too", "well", "good", "bad", "text", "words",
))
# fmt: on


_JOINT = 4  # characters between two values that may be all that tells them apart
# Chinese characters that tie words together: a pair with one of them means nothing for a tool.
GRAMMAR = frozenset("的了是在有多少还个一么吗什几把给我你要到于和与就不请帮下看查里上中某吧都也能可为从用让去来做这那")


def disguise(random: Random, words: Words, tool: ToolWords) -> ToolWords:
    """The tool with one to three of its words replaced; as it was where no request has any, or the world has no vocabulary."""
    if "vocabulary" not in words.frames.get("invented", {}):
        return tool
    return _chinese(random, words, tool) if words.language == "zh" else _english(random, words, tool)


def _english(random: Random, words: Words, tool: ToolWords) -> ToolWords:
    asked = telling(literal for request in tool.requests for literal in request[::2])
    # Where the overlap is: in the description only, in the name only, or in both.
    where = random.random()
    name = pick(random, tool.names)
    description = pick(random, [text for text in tool.descriptions if stems([text]) & asked] or tool.descriptions)
    told = stems([description] if where > 0.12 else []) | ({_stem(part) for part in name_words(name)} if where < 0.8 else set())
    shared = sorted(told & asked)
    if not shared:
        return tool
    # Two in five have no word left that means anything.
    replaced = (
        sorted(told - _PLAIN) if random.random() < 0.4 else random.sample(shared, min(len(shared), pick(random, (1, 1, 2, 2, 3))))
    )
    taken = stems(tool.descriptions) | {_stem(part) for one in tool.names for part in name_words(one)}
    chosen: dict[str, str] = {}
    for stem in replaced:
        new = _other(random, words)
        chosen[stem] = new if new not in taken else pseudo.word(random)

    def change(text: str) -> str:
        pieces = list(_cut(text))
        for place in range(1, len(pieces), 2):
            if _stem(pieces[place]) in chosen:
                new = pieces[place] = _like(pieces[place], chosen[_stem(pieces[place])])
                pieces[place - 1] = _ARTICLE.sub(r"\1n " if new[0] in "aeiouAEIOU" else r"\1 ", pieces[place - 1])
        return "".join(pieces)

    requests = tuple(request for request in tool.requests if stems(request[::2]) & chosen.keys())
    new_name = pseudo.name(random) if where >= 0.8 else "_".join(chosen.get(_stem(part), part) for part in name_words(name))
    return _changed(tool, change, (new_name,), (description if where > 0.12 else "",), requests)


def _chinese(random: Random, words: Words, tool: ToolWords) -> ToolWords:
    told = {pair for text in tool.descriptions for pair in pairs(text)}
    shared = sorted(told & {pair for request in tool.requests for literal in request[::2] for pair in pairs(literal)})
    shared = [pair for pair in shared if not GRAMMAR & set(pair)]
    if not shared:
        return tool
    known = vocabulary(words)
    # Pairs that are words are better than two halves of two words.
    fitting = [pair for pair in shared if pair in known] or shared
    chosen: dict[str, str] = {}
    for pair in random.sample(fitting, min(len(fitting), pick(random, (1, 1, 2)))):
        # Pairs that share a character would be replaced in halves.
        if not any(set(pair) & set(other) for other in chosen):
            new = pick(random, known)
            fresh = random.random() < 0.35 or any(new in text for text in tool.descriptions)
            chosen[pair] = pseudo.han(random, 2) if fresh else new

    def change(text: str) -> str:
        for old, new in chosen.items():
            text = text.replace(old, new)
        return text

    requests = tuple(
        request
        for request in tool.requests
        if any(old in literal for literal in request[::2] for old in chosen)
        and not any(old in joint and len(joint) <= _JOINT for joint in request[2:-1:2] for old in chosen)
    )
    if not requests:
        return tool
    descriptions = tuple(text for text in tool.descriptions if any(old in text for old in chosen))
    # The identifier would still tell what the Chinese words no longer say.
    names = (pseudo.name(random),)
    return _changed(tool, change, names, descriptions, requests)


def _changed(
    tool: ToolWords,
    change: Callable[[str], str],
    names: tuple[str, ...],
    descriptions: tuple[str, ...],
    requests: tuple[Frame, ...],
) -> ToolWords:
    def frames(texts: Iterable[Frame]) -> tuple[Frame, ...]:
        return tuple(tuple(piece if place % 2 else change(piece) for place, piece in enumerate(text)) for text in texts)

    def parameter(one: Parameter) -> Parameter:
        return replace(one, descriptions=tuple(map(change, one.descriptions)), clauses=frames(one.clauses))

    return replace(
        tool,
        disguised=tool,
        names=names,
        descriptions=tuple(map(change, descriptions)),
        requests=frames(requests),
        incomplete=(),
        answers=frames(tool.answers),
        errors=frames(tool.errors),
        parameters=tuple(map(parameter, tool.parameters)),
    )


def _other(random: Random, words: Words) -> str:
    """A word in the place of another: an invented one, or one that means something else."""
    return pseudo.word(random) if random.random() < 0.35 else pick(random, vocabulary(words))


@cache
def vocabulary(words: Words) -> tuple[str, ...]:
    """Some thousand words: a list in frames.toml, and the English words of all tools."""
    told = {stem for tool in words.tools for stem in stems(tool.descriptions)}
    told |= {stem for tool in words.tools for request in tool.requests for stem in stems(request[::2])}
    told = {word for word in told - _PLAIN if len(word) > 3} if words.language == "en" else set()
    told |= set(words.frames["invented"]["vocabulary"].split())
    told -= {text for tool in words.tools for leaf in tool.leaves() for text in leaf.descriptions}  # it would name another value
    return tuple(sorted(word for word in told if word[-1] != "s"))


@lru_cache(maxsize=65536)
def _cut(text: str) -> tuple[str, ...]:
    return tuple(_WORD.split(text))


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    word = word.lower()
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith("ss") else word


def telling(texts: Iterable[str]) -> set[str]:
    """The stems of the English words in some texts that mean something for a tool."""
    return stems(texts) - _PLAIN


def stems(texts: Iterable[str]) -> set[str]:
    """The English words of some texts of three letters or more, in small letters and without a plural's s."""
    return {_stem(piece) for text in texts for piece in _cut(text)[1::2]}


def _like(old: str, new: str) -> str:
    if old.endswith("s") and _stem(old) != old.lower():
        new += "s"
    return new[0].upper() + new[1:] if old[0].isupper() else new


@lru_cache(maxsize=65536)
def pairs(text: str) -> frozenset[str]:
    """Every two Chinese characters of a text that stand beside one another."""
    return frozenset(
        text[place : place + 2]
        for place in range(len(text) - 1)
        if all("\u4e00" <= one <= "\u9fff" for one in text[place : place + 2])
    )
