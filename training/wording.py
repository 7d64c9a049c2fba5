"""Sentences put together from literals and values, so that each value shows where it ends."""

import re
from collections.abc import Mapping, Sequence
from random import Random

from training.clock import BARE_DAYS
from training.kinds import Value
from training.pseudo import pick
from training.world import Frame, Words

_QUOTES = {
    "en": (('"', '"'), ('"', '"'), ('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’")),
    "zh": (("“", "”"), ("“", "”"), ("“", "”"), ("「", "」"), ('"', '"'), ("『", "』"), ("'", "'")),
}
_OPEN = "\"'“‘「『《`"
_STARTS = frozenset(
    [
        "A",
        "Am",
        "An",
        "Any",
        "Are",
        "At",
        "Can",
        "Could",
        "Did",
        "Do",
        "Does",
        "For",
        "From",
        "Has",
        "Have",
        "How",
        "In",
        "Is",
        "It",
        "It's",
        "Kindly",
        "Let",
        "Let's",
        "My",
        "New",
        "Next",
        "On",
        "Please",
        "The",
        "There",
        "Time",
        "This",
        "Was",
        "We",
        "We'd",
        "We're",
        "What",
        "What's",
        "When",
        "Where",
        "Which",
        "Who",
        "Will",
        "With",
        "Would",
        "You",
        "Your",
    ]
)
PAUSES = ("", *",.?!;:，。？！；：")
END = ".?!。？！"
_JOINED = re.compile("..(?:和|与|以及|、).")
_EXACT = ("id", "path", "folder", "file", "url", "email", "code", "word")


def sentence(language: str, text: str) -> str:
    """A text with a mark at its end."""
    return text if text[-1:] in END else text + ("。" if language == "zh" else ".")


def wording(random: Random, words: Words, pieces: list[str | Value], lower: bool = False) -> tuple[str, bool]:
    """Join literals and values, with quotes where free text would not show its end. True: it ends in text without quotes."""
    text, is_open, last = "", False, len(pieces) - 1
    tight = words.language == "zh"
    for place, piece in enumerate(pieces):
        if isinstance(piece, str):
            text = beside(text, piece.lower() if lower else piece, tight)
            continue
        said = piece.said
        if text[-1:] in _OPEN and text:
            pass
        elif piece.free:
            ends = place == last or not any(isinstance(rest, Value) or rest.strip(END + " ") for rest in pieces[place + 1 :])
            if piece.kind == "task" and _timed(pieces[place + 1 :]) and random.random() < 0.7 and _marked(words, "task", text):
                pass  # remind me to buy milk at 6 pm: the time ends it
            elif ends and piece.kind != "code" and random.random() < 0.75 and _marked(words, piece.kind, text):
                is_open = True
            else:
                said = quote(random, words.language, said, piece.kind == "code")
        elif said == "两" and (place == last or str(pieces[place + 1])[:1] in PAUSES):
            said = str(piece.given)  # only before what it counts
        elif tight and (_unclear(piece, pieces[place + 1 : place + 2], text) or _invented(words, piece)):
            said = quote(random, words.language, said)
        elif tight and isinstance(piece.given, list) and words.frames.get("quote_invented"):
            for name in piece.given:
                if name not in words.names.get(piece.kind.removeprefix("list:"), (name,)):
                    said = said.replace(name, quote(random, words.language, name))
        elif isinstance(piece.given, str) and random.random() < 0.07 and piece.kind not in ("date", "time", "moment", "duration"):
            said = quote(random, words.language, said, piece.kind in _EXACT)
        elif said in BARE_DAYS and text.endswith(" on "):
            text = text[:-3]
        elif said != piece.given and text.endswith(("for ", "moment, ")):
            said = piece.given if piece.kind == "moment" else said  # a reminder for 6 pm, not for at 6 pm
        text = beside(text, said, tight)
    return text, is_open


def unparted(random: Random, frame: Frame, groups: Mapping[str, str]) -> set[str]:
    """Slots that no word tells apart ("Sighting: {animal}, {date}, {place}", "Put {who}, {where}"), all but one of each group.

    Nobody could tell which is which were both invented. groups: slot -> the group of values that look like its own.
    """
    worded = [any(letter.isalpha() for letter in text) for text in frame[::2]]
    worded[0] = worded[-1] = True
    rows: dict[str, list[str]] = {}
    for place in range(1, len(frame), 2):
        before, after = frame[place - 1].rstrip()[-1:], frame[place + 1].lstrip()[:1]
        alone = not before.isalpha() and not after.isalpha()
        if frame[place] in groups and (alone or not all(worded[place // 2 : place // 2 + 2])):
            rows.setdefault(groups[frame[place]], []).append(frame[place])
    return {slot for row in rows.values() for slot in random.sample(row, len(row) - 1)}


def beside(text: str, more: str, tight: bool) -> str:
    """Join; where Chinese has no blank, one keeps two Latin words or numbers apart."""
    if tight and text[-1:].isascii() and text[-1:].isalnum() and more[:1].isascii() and more[:1].isalnum():
        return f"{text} {more}"
    return text + more


def quote(random: Random, language: str, text: str, ticks: bool = False) -> str:
    """Text in quotes that do not stand in it."""
    if ticks and random.random() < 0.4 and "`" not in text:
        return f"`{text}`"
    for _ in range(5):
        before, after = pick(random, _QUOTES[language])
        if before not in text and after not in text:
            return before + text + after
    return f"“{text}”"


def uncapital(words: Words, text: str) -> str:
    """A request as it goes on after a comma; a name that it begins with keeps its capital."""
    first = text.partition(" ")[0]
    if first in _STARTS or first in words.frames.get("wrap", {}).get("verbs", ()):
        return text[:1].lower() + text[1:]
    return text


def _unclear(value: Value, after: Sequence[str | Value], before: str) -> bool:
    """Whether a Chinese name reads like two names, or runs into a number beside it."""
    if not isinstance(value.given, str) or value.kind in (*_EXACT, "url", "phone", "date", "time", "moment", "duration", "enum"):
        return False
    follows = (after[0] if isinstance(after[0], str) else after[0].said)[:1] if after else ""
    first, last = value.said[:1].isdigit() and before[-1:].isdigit(), value.said[-1:].isdigit() and follows.isdigit()
    return first or last or _JOINED.search(value.said) is not None


def _invented(words: Words, value: Value) -> bool:
    """Whether nobody can know a Chinese name's ends, and the world's words want it quoted then."""
    return bool(words.frames.get("quote_invented")) and value.said not in words.names.get(value.kind, (value.said,))


def _timed(rest: Sequence[str | Value]) -> bool:
    """Whether nothing follows but one moment."""
    values = [piece for piece in rest if isinstance(piece, Value)]
    literals = "".join(piece for piece in rest if isinstance(piece, str))
    return len(values) == 1 and values[0].kind == "moment" and literals.strip(END) == " "


def _marked(words: Words, kind: str, text: str) -> bool:
    """Whether the text before a slot says that free text follows."""
    tail = text.rstrip().lower()
    markers = words.frames.get("markers", {})
    for marker in markers.get(kind, markers.get("text", ())):
        if tail.endswith(marker):
            rest = tail[: -len(marker)]
            if not (marker[0].isascii() and marker[0].isalpha() and rest[-1:].isalpha()):
                return True
    return False
