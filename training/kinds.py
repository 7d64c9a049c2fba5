"""Kinds of values: how a request says one, and what the call then has.

Built in:
  id         INV-20931, a7f3-9c0e, 77301925 (string)        count    13 to 5,000 (integer)
  number_id  20931 (integer)                                small    2 to 12, as a digit or a word (integer)
  path       reports/2026/q3.csv, /srv/app/main.go           amount   49.5, 1200 (number)
  folder     reports/2026                                    percent  20, said "20%" (integer)
  file       budget-2026.xlsx                                degrees  -15 to 38 (integer)
  url        https://velmora.example/a/b?x=1                 year     1950 to 2035 (integer)
  email      mira@velmora.example                            flag     said only by its yes and no clauses (boolean)
  phone      +49 171 555 0192                                enum     one of the parameter's values (string)
  date       2026-03-04, tomorrow, 下周三 (string)            object   flat properties with slots of their own
  time       6 pm, 18:30, 下午三点 (string)                   list:<kind>  one to four values, said "a, b and c" (array)
  moment     tomorrow at 6 pm; "at 6 pm" gives 6 pm (string)  word     one invented word
  duration   20 minutes, 2 小时 (string)                      code     a line of program text, always in quotes
  booked_day a date to come, and one day (string)            past_day a date that is past, or last night (string)
  clear_time a time that can be but one (string)             hostname velmora.example
  picture    floorplan-2.jpg
Free text, from texts.toml (frames whose slots are kinds): text (a statement), task ("buy milk"), query ("used bikes under 300"),
and every other key of texts.toml. Free text stands in quotes, or after a marker at the end of the request.
Entities: every key of names.toml. A quarter of them is drawn with invented words.
names.toml must have the kinds that built-in ones use: person, stem (of files), folder_name, domain (velmora.example).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from training import identifiers, pseudo
from training.clock import BARE_DAYS, booked_day, clear_time, date, duration, moment, number_word, past_day, time
from training.identifiers import INVENTED
from training.pseudo import pick
from training.shapes import free_text, shape, stretched
from training.spelling import capital, name_words
from training.world import Frame, Parameter, Words

# Kinds whose entities are identifiers or one of few words.
_IDENTIFIERS = frozenset(
    [
        *("ticker", "currency", "domain", "stem", "folder_name", "table_name", "function_name"),
        *("branch", "repository", "service", "state", "condition"),
    ]
)
SHAPED = 0.1  # the share that is new altogether
FREE = 0.15  # the share of free text that is made of any words
STRETCHED = 0.1  # the share that is longer or shorter than the known one


@dataclass(frozen=True, slots=True)
class Value:
    """said: in the request, without quotes; given: in the call. free: it may need quotes to show where it ends."""

    said: str
    given: Any
    kind: str
    free: bool = False


_PICTURES = ("png", "jpg", "jpg", "webp")
_TYPES = {
    "count": "integer",
    "number_id": "integer",
    "small": "integer",
    "percent": "integer",
    "degrees": "integer",
    "year": "integer",
    "amount": "number",
    "flag": "boolean",
}
_LEADING = ("the", "a", "an", "my", "our", "your", "some", "two")
_GROUPS = {
    "number": ("small", "count", "amount", "percent", "degrees", "year", "number_id"),
    "file": ("file", "path", "folder", "picture"),
    "day": ("date", "time", "moment", "booked_day", "past_day", "clear_time"),
}
LETTERS = re.compile("[A-Za-z]+(?:[_ -]?[A-Za-z]+)*")
_CODE = (
    "SELECT {a}, {b} FROM {c} WHERE {a} > {n};",
    "{a}.{b}({n})",
    "print({a}[{n}])",
    "for {a} in {b}: {c}({a})",
    "npm run {a} -- --{b}={n}",
    "{a} = {b} + {n}",
    "if {a} != {b} { return {c}; }",
    "grep -n '{a}' {b}.log | head -{n}",
    "make {a} {b}={n}",
    "const {a} = await {b}.{c}();",
    "docker run --rm {a}/{b}:{n}",
    "rm -rf {a}/{b} && mkdir {c}",
)


def known(words: Words, kind: str) -> bool:
    if kind.startswith("list:"):
        return known(words, kind[5:])
    return kind in _BUILT_IN or kind in ("enum", "flag", "object") or kind in words.texts or kind in words.names


def schema(parameter: Parameter) -> dict[str, Any]:
    """The JSON schema of a parameter's values, without its description."""
    kind = parameter.kind
    if kind == "enum":
        return {"type": "string", "enum": list(parameter.values)}
    if kind.startswith("list:"):
        return {"type": "array", "items": {"type": _TYPES.get(kind[5:], "string")}}
    found: dict[str, Any] = {"type": _TYPES.get(kind, "string")}
    if parameter.default is not None:
        found["default"] = parameter.default
    return found


def alike(words: Words, kind: str) -> str:
    """What values of a kind look like to somebody who knows no names: those of one group are told apart by words around them."""
    kind = kind.removeprefix("list:")
    if kind in words.names or kind in ("word", "title", "query"):
        return "name"
    return next((group for group, members in _GROUPS.items() if kind in members), kind)


def draw(random: Random, words: Words, kind: str, parameter: Parameter | None = None, known: bool = False) -> Value:
    """A value of a kind; an enum or a flag needs its parameter. known: a name as it stands in names.toml."""
    if parameter is not None and parameter.bounds and kind == parameter.kind:
        return _bounded(random, words, parameter)
    built = _BUILT_IN.get(kind)
    if built is not None:
        return built(random, words)
    entities = words.names.get(kind)
    if entities is not None:
        text = pick(random, entities)
        chance = 1.0 if known else random.random()
        if chance < INVENTED and not listed(text):
            text = pseudo.reword(random, text)
        elif (
            chance < INVENTED + SHAPED + STRETCHED
            and kind not in _IDENTIFIERS
            and "vocabulary" in words.frames.get("invented", {})
        ):
            if chance < INVENTED + SHAPED:
                text = shape(random, words, text[:1].isupper() == (random.random() < 0.8))
            else:
                text = stretched(random, words, text)
        if text.partition(" ")[0] in _LEADING:  # with a small letter it would not belong to the name
            text = capital(text)
        return Value(text, text, kind)
    texts = words.texts.get(kind)
    if texts is not None:
        if "shapes" in words.pages and kind in ("text", "task", "query") and random.random() < FREE:
            text = free_text(random, words, kind)
        else:
            text = compose(random, words, pick(random, texts))
        return Value(text, text, kind, free=True)
    if kind.startswith("list:"):
        return _list(random, words, kind)
    if kind == "enum" and parameter is not None:
        return _enum(random, parameter)
    if kind == "flag" and parameter is not None:
        given = random.random() < 0.6
        return Value(pick(random, parameter.yes if given else parameter.no), given, kind)
    raise ValueError(f"no kind {kind} in names.toml, texts.toml or training/kinds.py")


def compose(random: Random, words: Words, frame: Frame) -> str:
    """A frame whose slots are kinds, filled."""
    if len(frame) == 1:
        return frame[0]
    pieces = list(frame)
    for place in range(1, len(pieces), 2):
        said = draw(random, words, pieces[place]).said
        pieces[place] = said
        if said in BARE_DAYS and pieces[place - 1].endswith(" on "):
            pieces[place - 1] = pieces[place - 1][:-3]
    return "".join(pieces)


def join(random: Random, language: str, said: list[str]) -> str:
    """A list as people say it."""
    if language == "zh":
        comma, last = "、", pick(random, ("和", "、", "和", "以及"))
    else:
        comma, last = ", ", pick(random, (" and ", " and ", ", and ", ", "))
        if len(said) == 2:
            last = " and "
    return comma.join(said[:-1]) + (last if len(said) > 1 else "") + said[-1]


def listed(said: str) -> bool:
    """Whether a value itself reads like a list, so that a list of it would have two readings."""
    return any(joint in said for joint in (" and ", " & ", " + ", ",", "和", "、", "以及", "，", "与", "及", "跟", "同"))


def _list(random: Random, words: Words, kind: str) -> Value:
    values: list[Value] = []
    wanted = pick(random, (1, 2, 2, 2, 3, 3, 3, 4))
    for _ in range(20):
        value = draw(random, words, kind[5:])
        if value not in values and not listed(value.said):
            values.append(value)
        if len(values) == wanted:
            break
    return Value(join(random, words.language, [value.said for value in values]), [value.given for value in values], kind)


def _enum(random: Random, parameter: Parameter) -> Value:
    place = int(random.random() * len(parameter.values))
    given = parameter.values[place]
    if parameter.spoken:
        return Value(parameter.spoken[place], given, "enum")
    said, style = given, random.random()
    if LETTERS.fullmatch(given):
        if style < 0.8 and (not given.isupper() or len(given) > 4 or style < 0.2):
            said = " ".join(name_words(given))
        elif style > 0.96:
            said = said.upper()
        elif style > 0.92:
            said = " ".join(name_words(given)).capitalize()
        elif style > 0.88:
            said = given.lower()
    return Value(said, given, "enum")


def _plain(kind: str, text: str) -> Value:
    return Value(text, text, kind)


def _number_id(random: Random, words: Words) -> Value:
    number = int(random.random() * 10 ** pick(random, (3, 4, 5, 6))) + 20
    return Value(str(number), number, "number_id")


def _small(random: Random, words: Words) -> Value:
    return _counted(random, words, 2 + int(random.random() * 11))


def _counted(random: Random, words: Words, number: int) -> Value:
    word = number <= 12 and random.random() < 0.45
    return Value(number_word(words.language, number) if word else str(number), number, "small")


def _count(random: Random, words: Words) -> Value:
    number = 13 + int(random.random() * 10 ** pick(random, (1, 2, 2, 3)))
    if random.random() < 0.4:
        number = pick(random, (15, 20, 25, 30, 40, 45, 50, 60, 75, 90, 100, 120, 150, 200, 250, 300, 500, 1000, 1500, 2000, 5000))
    return Value(str(number), number, "count")


def _amount(random: Random, words: Words) -> Value:
    number: float = 1 + int(random.random() * 10 ** pick(random, (1, 2, 3, 4)))
    if random.random() < 0.4:
        number += pick(random, (0.5, 0.25, 0.75, 0.99, 0.95, 0.49))
    return Value(str(number), number, "amount")


def _bounded(random: Random, words: Words, parameter: Parameter) -> Value:
    """A number within the bounds of its parameter."""
    kind, (least, most) = parameter.kind, parameter.bounds
    if kind == "amount":
        step = 0.5 if most < 10_000 else 100
        amount = round(random.uniform(least, most) / step) * step
        given = int(amount) if amount == int(amount) else amount
        return Value(str(given), given, kind)
    number = random.randint(int(least), int(most))
    if kind == "percent":
        return _share(random, words, number)
    return _counted(random, words, number) if kind == "small" else Value(str(number), number, kind)


def _percent(random: Random, words: Words) -> Value:
    usual = random.random() < 0.6
    number = pick(random, (5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90, 100)) if usual else 1 + int(random.random() * 99)
    return _share(random, words, number)


def _share(random: Random, words: Words, number: int) -> Value:
    return Value(f"{number}%" if words.language == "zh" or random.random() < 0.7 else f"{number} percent", number, "percent")


def _number(random: Random, kind: str, least: int, count: int) -> Value:
    number = least + int(random.random() * count)
    return Value(str(number), number, kind)


def _word(random: Random, words: Words) -> Value:
    return _plain("word", pseudo.word(random))


def _code(random: Random, words: Words) -> Value:
    text = pick(random, _CODE)
    for name in ("a", "b", "c"):
        text = text.replace("{" + name + "}", pseudo.word(random))
    text = text.replace("{n}", str(int(random.random() * 90) + 2))
    return Value(text, text, "code", free=True)


_BUILT_IN: dict[str, Callable[[Random, Words], Value]] = {
    "id": lambda random, words: _plain("id", identifiers.id(random, words)),
    "number_id": _number_id,
    "path": lambda random, words: _plain("path", identifiers.path(random, words)),
    "folder": lambda random, words: _plain("folder", identifiers.folder(random, words)),
    "file": lambda random, words: _plain("file", identifiers.file(random, words)),
    "url": lambda random, words: _plain("url", identifiers.url(random, words)),
    "email": lambda random, words: _plain("email", identifiers.email(random, words)),
    "phone": lambda random, words: _plain("phone", identifiers.phone(random, words)),
    "hostname": lambda random, words: _plain("url", identifiers.host(random, words)),
    "picture": lambda random, words: _plain("file", f"{identifiers.stem(random, words)}.{pick(random, _PICTURES)}"),
    "date": lambda random, words: _plain("date", date(random, words.language)),
    "booked_day": lambda random, words: _plain("date", booked_day(random, words.language)),
    "past_day": lambda random, words: _plain("date", past_day(random, words.language)),
    "clear_time": lambda random, words: _plain("time", clear_time(random, words.language)),
    "time": lambda random, words: _plain("time", time(random, words.language)),
    "moment": lambda random, words: Value(*moment(random, words.language), "moment"),
    "duration": lambda random, words: _plain("duration", duration(random, words.language)),
    "small": _small,
    "count": _count,
    "amount": _amount,
    "percent": _percent,
    "degrees": lambda random, words: _number(random, "degrees", -15, 54),
    "year": lambda random, words: _number(random, "year", 1950, 86),
    "word": _word,
    "code": _code,
}
