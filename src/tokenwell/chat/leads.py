"""What stands before a call's arguments, matched against the text: marks, the name, an id. Knows no arguments and no events."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from tokenwell.chat.arguments.source import LOOK, SPACES, Source
from tokenwell.chat.formats.reading import NAME, Lead, Step

_CALL_ID = re.compile(rf"\s{{0,{LOOK}}}[^\s{{}}\[\]\"\ud800-\udfff]{{0,200}}")


class Match(NamedTuple):
    """A lead that was found: the tool's name and where the arguments begin, which may be behind a code fence."""

    name: str
    arguments_at: int
    fenced: bool


# "more": whether it matches depends on what follows; None: it does not.
Found = Match | Literal["more"] | None


def match(lead: Lead, source: Source, at_end: bool = False) -> Found:
    """Match a lead where the source stands. `at_end`: nothing follows, so arguments may be missing."""
    openers = lead.opener
    for index, (_, word) in enumerate(openers):
        if not source.text.startswith(word, source.at):
            continue
        steps: tuple[Step, ...] = (*openers[index:], ("name", ""), *lead.behind)
        return _walk(steps, lead, source, at_end)
    return None


def _walk(steps: tuple[Step, ...], lead: Lead, source: Source, at_end: bool) -> Found:
    text, at, name, fenced = source.text, source.at, "", False
    for kind, word in steps:
        start = at
        while at < len(text) and text[at] in SPACES and at - start < LOOK:
            at += 1
        here = text[at : at + max(len(word), 1)]
        if kind in ("word", "maybe") and here == word:
            at += len(word)
            fenced = fenced or word.startswith("```")
        elif at + len(here) >= len(text) and word.startswith(here) and not source.ended:
            return "more"
        elif at >= len(text) and not at_end:
            return "more" if not (lead.syntax == "xml" and name and source.ended and not source.cut) else Match(name, at, fenced)
        elif kind == "word":
            return "more" if source.cut and word.startswith(here) and at + len(here) >= len(text) else None
        elif kind == "name":
            quote = text[at] if lead.syntax == "xml" and at < len(text) and text[at] in "\"'" else ""
            found = NAME.match(text, at + len(quote))
            if found is None:
                return "more" if quote and at + 1 == len(text) and not source.ended else None
            if found.end() == len(text) and not at_end:
                return "more"
            at = found.end()
            if quote and text.startswith(quote, at):
                at += 1
            name = found[0].removesuffix("/") if lead.syntax == "xml" else found[0]  # <function=name/>
        elif kind == "id" and here == word[: len(here)] and here:
            found = _CALL_ID.match(text, at + len(word))
            at = found.end() if found else at + len(word)
            if at == len(text) and not at_end:
                return "more"
    return _begins(lead, source, name, at, fenced, at_end)


def _begins(lead: Lead, source: Source, name: str, at: int, fenced: bool, at_end: bool) -> Found:
    """Whether arguments begin at `at`."""
    text = source.text
    while at < len(text) and text[at] in SPACES:
        at += 1
    if at >= len(text):
        done = at_end or (lead.syntax == "xml" and source.ended)
        return Match(name, at, fenced) if done else "more"
    # A mark that ends the call right behind its name: it has no arguments.
    closed = any(text.startswith(word, at) for word in lead.closers)
    if text[at] in lead.begins or (closed and name):
        return Match(name, at, fenced)
    begun = any(word.startswith(text[at:]) for word in lead.closers)
    return "more" if begun and (source.cut or not source.ended) else None
