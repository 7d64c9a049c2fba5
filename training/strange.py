"""Strange values: what a request names is replaced, in some dialogues, by text that nobody would expect.

Half of them look like titles, addresses and names of things, with small words, numbers and apostrophes inside: where a value ends
must be read from the sentence around it. The other half are rare characters, other scripts, pictures: every token of the
vocabulary is copied now and then, because one that is never written while training could not be written later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from random import Random
from typing import Any

from training import tokenizer
from training.clock import tells_time
from training.dialogue import Dialogue
from training.pseudo import HAN, han, pick, word

SHARE = 0.15  # of all dialogues
_LETTERS = (
    "áàâäãåæçéèêëíìîïñóòôöõøœßúùûüýÿčďěňřšťžąćęłńśźżğışőű",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん",
    "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモヤユヨラリルレロワヲン",
    "가나다라마바사아자차카타파하고노도로모보소오조초코토포호",
)
_PICTURES = "🙂😀🎉🚀🔥🌧🌞🍎🐱🏠📎📅✅❌⭐❤"
_SIGNS = "$<>^`£§|~#%&*+=@\\/_-.:;?!°©®±²½·—–→×～…€￥•"
_SMALL = ("of", "the", "a", "to", "in", "for", "with", "on", "at", "from", "my", "is", "&")
_TELLING = re.compile(r"[\d@/.#_]")
_ALPHANUMERIC = "abcdefghijklmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"


def strange(dialogue: Dialogue, random: Random) -> Dialogue:
    """The dialogue with one or two of its copied values replaced everywhere; as it was when there are none."""
    values = sorted(set(_copied(dialogue)))
    for _ in range(min(len(values), 1 + (random.random() < 0.4))):
        old = values.pop(int(random.random() * len(values)))
        new = titled(random, old[0] >= "\u4e00") if random.random() < 0.5 else invented(random)
        whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(old)}(?![A-Za-z0-9])")
        if any(old in message["content"] and not whole.search(message["content"]) for message in dialogue.messages):
            continue  # somewhere it stands within another word only
        dialogue = replace(dialogue, messages=_mapped(dialogue.messages, partial(_swapped, whole, new)))
    return dialogue


def _swapped(old: re.Pattern[str], new: str, text: str) -> str:
    return old.sub(lambda _: new, text)


def invented(random: Random) -> str:
    """A text of one to three parts that begins and ends like a word."""
    parts = [pick(random, _MAKERS)(random) for _ in range(pick(random, (1, 1, 2, 2, 3)))]
    text = parts[0]
    for part in parts[1:]:
        text += pick(random, ("", " ", " ", "-", "_", pick(random, _SIGNS))) + part
    return text


def titled(random: Random, chinese: bool) -> str:
    """A title, an address or the name of a thing, of invented words and some that are usual there."""
    return _chinese_title(random) if chinese else _english_title(random)


def _english_title(random: Random) -> str:
    count = pick(random, (1, 2, 2, 3, 4))
    words = [word(random) if random.random() < 0.5 else pick(random, _pieces()).lower() for _ in range(count)]
    small: Sequence[str] = ("of", "&")  # two invented names with "and" would be two
    if random.random() < 0.75:  # small letters leave little else to read the end from
        words, small = [each.capitalize() for each in words], _SMALL
    if count > 1 and random.random() < 0.6:
        words.insert(1 + int(random.random() * (count - 1)), pick(random, small))
    chance = random.random()
    if chance < 0.15:
        words[0] += "'s"
        words.append(word(random).capitalize())
    elif chance < 0.3:
        words.insert(0, str(1 + int(random.random() * pick(random, (9, 99, 999)))))
    elif chance < 0.4:
        words[0] = f"{words[0]}-{word(random)}"
    return " ".join(words)


def _chinese_title(random: Random) -> str:
    text = han(random, pick(random, (2, 2, 3, 3, 4)))
    chance = random.random()
    if chance < 0.3:
        text += pick(random, "的之与在上下里外") + han(random, pick(random, (1, 2, 3)))
    elif chance < 0.5:
        text += (
            pick(random, ("路", "街", "巷", "胡同", "门外", ""))
            + str(1 + int(random.random() * 999))
            + pick(random, ("号", "室", "栋"))
        )
    elif chance < 0.6:
        text += pick(random, "甲乙丙丁一二三")
    elif chance < 0.7:
        text += pick(random, ("", " ")) + word(random)
    return text


def _piece(random: Random) -> str:
    text = "".join(pick(random, _pieces()) for _ in range(pick(random, (1, 1, 2, 3))))
    return text if len(text) > 2 else text + pick(random, _pieces())


def _words(random: Random) -> str:
    return " ".join(pick(random, _pieces()) for _ in range(pick(random, (2, 3, 4, 6, 8))))


def _han(random: Random) -> str:
    return han(random, pick(random, (2, 3, 4, 5)))


def _rare_han(random: Random) -> str:
    return "".join(chr(0x4E00 + int(random.random() * 0x5000)) if random.random() < 0.6 else pick(random, HAN) for _ in range(3))


def _foreign(random: Random) -> str:
    letters = pick(random, _LETTERS)
    text = "".join(pick(random, letters) for _ in range(pick(random, (3, 4, 5, 6, 7))))
    return text.capitalize() if random.random() < 0.4 else text


def _accented(random: Random) -> str:
    text = _piece(random)
    place = int(random.random() * len(text))
    return text[:place] + pick(random, _LETTERS[0]) + text[place:]


def _picture(random: Random) -> str:
    return pick(random, _PICTURES) if random.random() < 0.7 else chr(0x1F300 + int(random.random() * 0x2FF))


def _mixed(random: Random) -> str:
    return "".join(pick(random, _ALPHANUMERIC) for _ in range(pick(random, (4, 6, 8, 12))))


_MAKERS: tuple[Callable[[Random], str], ...] = (
    *(_piece, _piece, _words, _words, _han, _han, _han),
    *(_rare_han, _foreign, _accented, _picture, _mixed),
)


@cache
def _pieces() -> tuple[str, ...]:
    """The English pieces of the vocabulary."""
    return tuple(piece for piece in sorted(tokenizer.load().get_vocab()) if piece.isascii() and piece.isalpha())


def _copied(dialogue: Dialogue) -> Iterator[str]:
    """Arguments that a user says word by word, and that the declarations do not know; no times, which end by what they are."""
    asked = [message["content"] for message in dialogue.messages if message["role"] == "user"]
    declared = json.dumps(dialogue.tools, ensure_ascii=False).lower()
    for message in dialogue.messages:
        for call in message.get("tool_calls") or ():
            values = list(_strings(call["function"]["arguments"]))
            for value in values:
                if not 1 < len(value) < 40 or value.lower() in declared or tells_time(value):
                    continue
                if len(values) > 1 and _TELLING.search(value) and any(_alone(value, text) for text in asked[1:]):
                    continue
                if any(value in text for text in asked):
                    yield value


def _alone(value: str, text: str) -> bool:
    """Whether little else is said: "Now 15516516185." is a phone number by its look, another text could be anything."""
    return value in text and len(text) - len(value) < 20


def _strings(node: Any) -> Iterator[str]:
    """Texts, but no items of lists: an item with an "and" inside would be two."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _strings(value)


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    """The same with every text changed, but not the keys."""
    if isinstance(node, str):
        return change(node)
    if isinstance(node, dict):
        return {key: _mapped(value, change) for key, value in node.items()}
    return [_mapped(value, change) for value in node] if isinstance(node, list) else node
