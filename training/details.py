"""What declarations have besides what matters: longer names, longer descriptions, explained values."""

import re
from dataclasses import replace
from random import Random
from string import ascii_uppercase

from training import pseudo
from training.disguise import vocabulary
from training.kinds import LETTERS, alike
from training.pseudo import pick
from training.spelling import name_words, restyle
from training.world import Frame, Parameter, ToolWords, Words

RESTYLED = 0.3  # the share of tools whose enums have values in another style
RECODED = 0.4  # the share of tools with other codes for values that people say in words of their own
_UNIT = re.compile("（.*）$|，.*$")  # as in 金额（元）
_TOLD = re.compile("^(?:请填写|指定|要使用的|该记录的|用户所说的)|的值$|，原样填写$")  # in a description, around a name
_ASKING = re.compile("[哪谁几]|什么|多少|多久|是否|要不要|还是|能否")  # a description that is a question is no name
_FIRST = ("the", "my", "new", "main", "full", "wanted", "given", "this", "user", "one")


def first_word(random: Random, words: Words) -> str:
    """What may stand before a parameter's name: play_date, coastal_town."""
    if words.language == "en" and "vocabulary" in words.frames.get("invented", {}) and random.random() < 0.7:
        return pick(random, vocabulary(words))
    return pick(random, _FIRST) if random.random() < 0.6 else pseudo.word(random)


def detailed(random: Random, words: Words, description: str, what: str) -> str:
    """A description with one to three sentences more, now and then, as tools in the wild have them.

    what: "tool", "parameter", or "optional" for a parameter that may be left out.
    """
    details = words.frames.get("details")
    if not details or random.random() > 0.15:
        return description
    more = random.sample(details[what], pick(random, (1, 2, 3)) if what == "tool" else 1)
    if words.language == "zh":
        return description.rstrip("。") + "。" + "".join(more)
    return " ".join((description.rstrip(".") + ".", *more))


def explained(language: str, parameter: Parameter) -> str:
    """What the spoken values of an enum stand for."""
    pairs = zip(parameter.values, parameter.spoken, strict=True)
    if language == "zh":
        return "：" + "、".join(f"{value}（{said}）" for value, said in pairs)
    return " (" + ", ".join(f"{value}: {said}" for value, said in pairs) + ")"


def revalued(random: Random, tool: ToolWords) -> ToolWords:
    """The tool with other values for its enums, now and then: in another style, or codes that say nothing."""
    if random.random() < RESTYLED:
        tool = restyled(random, tool)
    if any(parameter.spoken for parameter in tool.parameters) and random.random() < RECODED:
        tool = recoded(random, tool)
    return tool


def restyled(random: Random, tool: ToolWords) -> ToolWords:
    """The tool with the values of its enums in another style: bottom_heat, bottom-heat, BOTTOM_HEAT, bottomHeat."""
    style = pick(random, ("kebab", "camel", "pascal", "upper", "upper", "plain"))

    def changed(one: Parameter) -> Parameter:
        if one.kind != "enum" or one.spoken or not all(LETTERS.fullmatch(value) for value in one.values):
            return one
        return replace(one, values=tuple(_value(value, style) for value in one.values))

    if not any(one.kind == "enum" for one in tool.parameters):
        return tool
    return replace(tool, parameters=tuple(map(changed, tool.parameters)))


def recoded(random: Random, tool: ToolWords) -> ToolWords:
    """The tool with codes that say nothing where people say an enum's values in other words: only the description tells which."""

    def changed(one: Parameter) -> Parameter:
        return replace(one, values=_codes(random, len(one.values))) if one.spoken else one

    return replace(tool, parameters=tuple(map(changed, tool.parameters)))


def _codes(random: Random, count: int) -> tuple[str, ...]:
    shape = random.random()
    if shape < 0.25:
        return tuple(random.sample(ascii_uppercase, count))
    if shape < 0.5:
        before = pick(random, ("", "", "T", "opt_", "type-"))
        return tuple(f"{before}{number}" for number in random.sample(range(1, 20), count))
    found: set[str] = set()
    while len(found) < count:
        found.add(pseudo.word(random))
    return tuple(random.sample(sorted(found), count))


def _value(value: str, style: str) -> str:
    words = name_words(value)
    if style == "upper":
        return "_".join(words).upper()
    return " ".join(words) if style == "plain" else restyle(value, style)


_UNTOLD = ("number", "name", "email", "phone", "id", "url")  # values that never tell what they are


def generic(random: Random, words: Words, leaf: Parameter, spelled: str, alone: bool) -> Frame | None:
    """A clause that any optional parameter may have: its own words, or the value alone where only it can be meant.

    alone: nothing else that the tool takes looks like it; _UNTOLD ones never do.
    """
    invented = words.frames.get("invented")
    if invented is None:
        return None
    if alone and alike(words, leaf.kind) not in _UNTOLD and random.random() < 0.35 and "alone" in invented:
        text = pick(random, invented["alone"])
    else:
        name = called(words.language, leaf, spelled)
        if not name:
            return None
        fitting = [one for one in invented["next"] if not one.startswith((" and", ";"))]  # those would begin another request
        text = pick(random, fitting or invented["next"]).replace("{p}", name)
    before, _, after = text.partition("{}")
    return (before, "", after)


_TIES = ("about", "after", "as", "at", "before", "between", "by", "for", "from", "in", "into", "of", "on", "per", "to", "with")


def called(language: str, leaf: Parameter, spelled: str) -> str:
    """What a request may call a parameter: the words of its name, in Chinese its description; empty when that is no name."""
    if language != "zh":
        name = " ".join(name_words(spelled)).removeprefix("the ")
        return "" if name in _TIES else name
    name = _TOLD.sub("", _UNIT.sub("", leaf.descriptions[0]))
    return name if 1 < len(name) < 7 and not _ASKING.search(name) else ""
