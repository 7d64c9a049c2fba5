"""Declared tools: their spelling in one dialogue, what a user says to reach them, what they answer, and the tools beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from training import kinds, pseudo
from training.details import detailed, explained, first_word, generic, revalued
from training.disguise import disguise
from training.fillers import filled
from training.kinds import Value
from training.plain import plain
from training.pseudo import pick
from training.slips import slipped
from training.spelling import STYLES, capital, name_words, restyle
from training.wording import END, PAUSES, sentence, uncapital, unparted, wording
from training.world import Frame, Parameter, ToolWords, Words

PLAIN = 0.85  # the share of requests that are drawn of those that share a word with the declaration
ASIDES = 0.15  # the share of requests with something beside them that has nothing to do with them
SLIPPED = 0.03  # the share of English requests for natural tools that are typed in haste
# People give a page where a host is asked for, a path where a file is.
_ALIKE = {"url": "domain", "domain": "url", "file": "path", "path": "file", "folder": "path", "city": "address", "place": "city"}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as one dialogue declares it. spelled: the declared name of every slot and object parameter."""

    words: ToolWords
    name: str
    spelled: Mapping[str, str]
    declaration: dict[str, Any]

    def arguments(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """The arguments of a call that gives these values, by slot."""
        found: dict[str, Any] = {}
        for parameter in self.words.parameters:
            if parameter.kind == "object":
                inner = {self.spelled[p.slot]: values[p.slot].given for p in parameter.parameters if p.slot in values}
                if inner:
                    found[self.spelled[parameter.slot]] = inner
            elif parameter.slot in values:
                found[self.spelled[parameter.slot]] = values[parameter.slot].given
        return found


@dataclass(frozen=True, slots=True)
class Request:
    """What the user says, and the call that it asks for. open: it ends in free text without quotes, so nothing may follow."""

    text: str
    values: Mapping[str, Value]
    arguments: dict[str, Any]
    open: bool = False


# ------------------------------------------------------------------------------------------------ declarations


def declare(random: Random, words: Words, tool: ToolWords, style: str | None = None) -> Tool:
    """Draw the spelling, the descriptions and the order of a tool's declaration."""
    style = style or pick(random, STYLES)
    inner_style = style if style in ("snake", "camel") else pick(random, ("snake", "camel", "as is"))
    spelled: dict[str, str] = {}
    schema = _object(random, words, tool.parameters, inner_style, spelled)
    function: dict[str, Any] = {"name": _named(random, words, tool, style)}
    description = pick(random, tool.descriptions)
    if tool.recipe is None and tool.disguised is None:
        description = words.synonyms.vary(random, description)
    chance = random.random()
    if description and (chance > 0.04 or tool.disguised is not None):
        function["description"] = detailed(random, words, description, "tool")
        if chance > 0.96:
            # A name that says nothing: only the description tells what the tool does.
            function["name"] = restyle(pseudo.name(random), style)
    function["parameters"] = schema
    return Tool(tool, function["name"], spelled, {"type": "function", "function": function})


def _named(random: Random, words: Words, tool: ToolWords, style: str) -> str:
    """A tool's name in a style, one time in six with other words of the same meaning."""
    name = pick(random, tool.names)
    if tool.disguised is None and random.random() < 0.16:
        name = "_".join(words.synonyms.word(random, part) for part in name_words(name))
    return restyle(name, style)


def _object(
    random: Random, words: Words, parameters: tuple[Parameter, ...], style: str, spelled: dict[str, str]
) -> dict[str, Any]:
    order = list(parameters)
    if random.random() < 0.4:
        random.shuffle(order)
    properties: dict[str, Any] = {}
    # A tool whose names say everything often has no descriptions at all.
    chance = random.random()
    bare, obscure = chance < 0.12, chance > 0.98
    for parameter in order:
        name = restyle(pick(random, parameter.names), style)
        for other in parameter.names:
            if name not in properties:
                break
            name = restyle(other, style)
        description = pick(random, parameter.descriptions)
        if random.random() < 0.1 and parameter.kind != "object":
            # A word before it: what the name ends in says what it is.
            name = restyle(f"{first_word(random, words)}_{name}", style)
        if obscure and description:
            name = pseudo.word(random)
        spelled[parameter.slot] = name
        if parameter.kind == "object":
            entry = _object(random, words, parameter.parameters, style, spelled)
        else:
            entry = kinds.schema(parameter)
            if "enum" in entry and random.random() < 0.5:
                random.shuffle(entry["enum"])
        if parameter.spoken:
            description += explained(words.language, parameter)
        elif (bare or (not obscure and random.random() < 0.08)) and not parameter.stated:
            description = ""
        if description:
            what = "parameter" if parameter.required or random.random() < 0.5 else "optional"
            entry["description"] = detailed(random, words, description, what)
        properties[name] = entry
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [spelled[parameter.slot] for parameter in order if parameter.required]
    if required or random.random() < 0.3:
        schema["required"] = required
    if random.random() < 0.08:
        schema["additionalProperties"] = False
    return schema


# ------------------------------------------------------------------------------------------------ requests


def ask(
    random: Random,
    words: Words,
    tool: Tool,
    known: Mapping[str, Value] | None = None,
    frame: Frame | None = None,
    optional: float | None = None,
) -> Request:
    """A request that has one right call.

    known: values that the request has to say; frame: the sentence, drawn when it is None; optional: the chance of each
    optional parameter, drawn when it is None.
    """
    known = known or {}
    leaves = {leaf.slot: leaf for leaf in tool.words.leaves()}
    # In an invented or disguised tool the very words are the only clue, and every request has one.
    natural = tool.words.recipe is None and tool.words.disguised is None
    if frame is None:
        fitting = [one for one in tool.words.requests if all(slot in one[1::2] for slot in known)]
        fitting = fitting or list(tool.words.requests)
        if natural and random.random() < PLAIN:
            fitting = plain(words.language, tool.declaration, fitting) or fitting
        frame = pick(random, fitting)
    frame = wrapped(random, words, frame)
    chance = random.random() if optional is None else optional
    # Arguments stand in the order of their names: an optional one that comes first is easily forgotten.
    first = min((tool.spelled[leaf.slot].lower() for leaf in leaves.values() if leaf.required), default="")
    early = {leaf.slot for leaf in leaves.values() if not leaf.required and tool.spelled[leaf.slot].lower() < first}
    values: dict[str, Value] = {}
    counts = any(kinds.alike(words, leaf.kind) == "number" for leaf in leaves.values())
    bare = unparted(random, frame, {slot: kinds.alike(words, leaf.kind) for slot, leaf in leaves.items() if not leaf.clauses})
    for slot in frame[1::2]:
        leaf = leaves[slot]
        if slot in known:
            values[slot] = known[slot]
        elif (
            leaf.required or not (leaf.clauses or leaf.yes) or random.random() < (max(chance, 0.65) if slot in early else chance)
        ):
            values[slot] = _other(random, words, leaf, values, slot in bare)
            while counts and leaf.kind == "id" and values[slot].said.isdigit():  # it would be taken for the number
                values[slot] = _other(random, words, leaf, values, False)
    if natural:
        frame = tuple(part if place % 2 else words.synonyms.vary(random, part) for place, part in enumerate(frame))
        if words.language == "en" and random.random() < SLIPPED:
            frame = slipped(random, frame)
    lower = random.random() < 0.05
    if lower:
        values = {slot: value if slot in known else _lowered(words, value) for slot, value in values.items()}
    timed = any(kinds.alike(words, leaf.kind) in ("day", "duration") for leaf in leaves.values())
    text, is_open = wording(random, words, filled(random, words, _pieces(random, words, tool, frame, values), timed), lower)
    # "for 6 pm" in the request: the answer does not say "at 6 pm" either.
    for slot, value in values.items():
        if value.kind == "moment" and value.said not in text and " at " in value.given:
            values[slot] = replace(value, said=value.given)
    return Request(text, values, tool.arguments(values), is_open)


def wrapped(random: Random, words: Words, frame: Frame) -> Frame:
    """A request that is one order, put as a wish or a question now and then."""
    wrap = words.frames.get("wrap")
    if wrap is None or len(frame) == 1 or random.random() > 0.3:
        return frame
    before, after = pick(random, wrap["around"]).split("{}")
    if words.language == "zh":
        orders = frame[0].startswith(tuple(wrap["verbs"])) and not frame[0].startswith(tuple(wrap["never"]))
        orders = (
            orders and not frame[-1].endswith(("吧", "吗", "没", "呢")) and not any("了" in literal for literal in frame[2::2])
        )
        whole = orders and not any(mark in literal for literal in frame[::2] for mark in "。？！；：:\n")
        return (before + frame[0], *frame[1:-1], frame[-1] + after) if whole else frame
    label = ":" in frame[0] and len(frame[0].partition(":")[0].split()) < 3  # "Watch list: " orders nothing
    orders = frame[0].partition(" ")[0] in wrap["verbs"] and not label and not frame[-1].strip(" .")
    if not orders or any(mark in literal for literal in frame[:-1:2] for mark in ".?!;\n"):
        return frame
    first = before + frame[0][0].lower() + frame[0][1:] if before else frame[0]
    return (first, *frame[1:-1], after or frame[-1])


def _other(random: Random, words: Words, leaf: Parameter, values: Mapping[str, Value], known: bool) -> Value:
    """A value that no other slot of the request has: from one city to another. known: one that tells what it is."""
    kind = leaf.kind
    if kind in _ALIKE and not known and random.random() < 0.08 and kinds.known(words, _ALIKE[kind]):
        kind = _ALIKE[kind]
    value = kinds.draw(random, words, kind, leaf, known)
    for _ in range(4):
        if kind == "flag" or all(value.given != other.given for other in values.values()):
            break
        value = kinds.draw(random, words, kind, leaf, known)
    return value


def _lowered(words: Words, value: Value) -> Value:
    kind = value.kind.removeprefix("list:")
    if kind not in words.names and kind not in words.texts:
        return value
    given = [item.lower() for item in value.given] if isinstance(value.given, list) else value.given.lower()
    return Value(value.said.lower(), given, value.kind, value.free)


def _pieces(random: Random, words: Words, tool: Tool, frame: Frame, values: Mapping[str, Value]) -> list[str | Value]:
    """The request in pieces; optional clauses that follow one another change places."""
    leaves = {leaf.slot: leaf for leaf in tool.words.leaves()}
    order = list(frame[1::2])
    for place in range(len(order) - 1):
        free = all(not leaf.required and (leaf.clauses or leaf.yes) for leaf in (leaves[order[place]], leaves[order[place + 1]]))
        if free and frame[2 * place + 2] == "" and random.random() < 0.4:
            order[place], order[place + 1] = order[place + 1], order[place]
    alone = [kinds.alike(words, leaf.kind) for leaf in leaves.values()]
    pieces: list[str | Value] = [frame[0]]
    for slot, literal in zip(order, frame[2::2], strict=True):
        leaf = leaves[slot]
        if slot in values:
            value = values[slot]
            if leaf.kind == "flag":
                pieces.append(value.said)
            elif leaf.required or not leaf.clauses:
                pieces.append(value)
            else:
                pause = literal[:1] in PAUSES and isinstance(pieces[-1], str) and pieces[-1][-1:] not in PAUSES
                clause = None
                if pause and random.random() < 0.3:
                    clause = generic(random, words, leaf, tool.spelled[slot], alone.count(kinds.alike(words, leaf.kind)) == 1)
                before, _, after = clause or pick(random, leaf.clauses)
                pieces += [before, value, after]
        pieces.append(literal)
    return pieces


def polish(random: Random, words: Words, request: Request | str) -> str:
    """A request with a greeting, thanks or a full stop around it, now and then."""
    text = request if isinstance(request, str) else request.text
    named = not isinstance(request, str) and any(text.startswith(value.said) for value in request.values.values())
    blank = "" if words.language == "zh" else " "
    stop = "。" if words.language == "zh" else "."
    chance = random.random()
    if text[-1:] not in END and (chance < 0.12 or random.random() < 0.55):
        text += stop
    if chance > 1 - ASIDES and words.asides:
        # Something that has nothing to do with the request: mostly before it, as behind open text it would be part of that.
        aside = kinds.compose(random, words, _aside(random, words, {} if isinstance(request, str) else request.values))
        aside = sentence(words.language, capital(aside))
        first = chance > 1 - 0.77 * ASIDES or (not isinstance(request, str) and request.open)
        text = aside + blank + text if first else sentence(words.language, text) + blank + aside
    if chance < 0.12:
        text += blank + pick(random, words.frames["closers"])
    elif chance < 0.3:
        opener = pick(random, words.frames["openers"])
        text = opener + blank + (uncapital(words, text) if opener[-1] in ",:" and words.language == "en" and not named else text)
    return text


def _aside(random: Random, words: Words, values: Mapping[str, Value]) -> Frame:
    """What is told beside a request: every second time something with a value that could be taken for one of its own."""
    looks = {kinds.alike(words, value.kind) for value in values.values()}
    frames = pick(random, words.asides)
    for _ in range(6 if random.random() < 0.5 else 0):
        frame = pick(random, frames)
        if any(kinds.alike(words, kind) in looks for kind in frame[1::2]):
            return frame
    return pick(random, frames)


# ------------------------------------------------------------------------------------------------ the tools at hand


def toolbox(
    random: Random, words: Words, chosen: Iterable[Tool], avoid: Iterable[ToolWords] = (), count: int | None = None
) -> list[dict[str, Any]]:
    """Declarations of the chosen tools among others that they could be mistaken for; none serves the same request.

    avoid: tools that must not be there. count: of the others, 0 to 11; drawn when it is None.
    """
    from training.invent import invent, namesake  # invented tools are made of what this module makes

    chosen = list(chosen)
    if count is None:
        count = pick(random, (0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11))
    count = max(0, min(count, 12 - len(chosen)))
    keys = {tool.words.key for tool in chosen} | {tool.key for tool in avoid}
    names = {tool.name for tool in chosen}
    found = [tool.declaration for tool in chosen]
    style = pick(random, STYLES) if random.random() < 0.6 else None
    masked = [tool for tool in chosen if tool.words.disguised is not None]
    # Where all that is asked for is natural, mostly everything is: strange neighbours would give it away.
    natural = not masked and all(tool.words.recipe is None for tool in chosen) and random.random() < 0.7
    disguised = 0.0 if natural else pick(random, (0.2, 0.6, 1.0))
    near = [other for tool in chosen for other in words.domains.get(tool.words.domain, ())]
    for _ in range(4 * count):
        if len(found) >= count + len(chosen):
            break
        source = random.random()
        if (source < 0.14 or not words.tools) and chosen:
            made = namesake(random, words, pick(random, chosen), style)
            if made is None:
                continue
            other = made
        elif source < 0.2 and masked:
            # The tool itself, or another disguise of it: only the replaced words tell them apart.
            plain = pick(random, masked).words.disguised
            other = declare(random, words, plain if random.random() < 0.4 else disguise(random, words, plain), style)
        elif source > 0.9 and not natural and "invented" in words.frames:
            other = declare(random, words, invent(random, words, requests=0), style)
        else:
            plain = pick(random, near if near and source < 0.42 else words.tools)
            if plain.key in keys:
                continue
            keys.add(plain.key)
            if random.random() < disguised:
                plain = disguise(random, words, plain)
            other = declare(random, words, revalued(random, plain), style)
        if other.name not in names:
            names.add(other.name)
            found.append(other.declaration)
    random.shuffle(found)
    return found
