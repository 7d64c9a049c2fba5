"""Dialogues of two to four calls in a row, each of which needs what an earlier one returned."""

import re
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from training import conditions, pseudo, tools
from training.actions import act, finished, returned
from training.dialogue import Dialogue
from training.disguise import disguise
from training.failures import told
from training.kinds import Value, draw
from training.missing import cuts
from training.pseudo import pick
from training.scene import Scene, capital, inline, joined, packed
from training.spelling import name_words, restyle
from training.tools import Tool
from training.wording import sentence
from training.world import Frame, Parameter, ToolWords, Words

_SLOT = re.compile(r"\{(\w+)\}")
_LOOSE = re.compile(r"(?<=[\u4e00-\u9fff，。：；？！]) +(?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff]) +(?=[，。：；？！])")
_LINKS = ("id", "number_id", "path", "file", "folder", "url", "email", "phone", "date", "time", "moment", "word")
_MOST_DECOYS = 5


def sequence(random: Random, words: Words, world: object = None) -> Dialogue:
    """A chain of sequences.toml, now and then with one more thing to do at its end."""
    scene = Scene(random, words, "sequence")
    entry = pick(random, words.pages["sequences"]["chain"])
    lists = {**words.pages["sequences"].get("words", {}), **entry.get("words", {})}
    declared = [scene.declare(step["tool"]) for step in entry["step"]]
    request = scene.fill(pick(random, entry["requests"]), lists, keep=tuple(lists))
    more = act(scene, 1, "does") if random.random() < 0.15 else []
    page = words.pages["sequences"]
    if more:
        request = joined(pick(random, page["more"]), {"first": request, "do": more[0].clause})
    conditions.ask(scene, request)
    for step, tool in zip(entry["step"], declared, strict=True):
        scene.call((tool, _arguments(scene, step, tool, lists)))
        if tool is not declared[-1] and _stopped(scene):
            return scene.dialogue(scene.beside([*conditions.others(words), *_steps(words)]))
        scene.result(_result(scene, step, lists))
    if more:
        scene.call(more[0].call())
        scene.result(returned(scene))
    answer = scene.fill(pick(random, entry["answers"]))
    if more:
        answer += ("" if words.language == "zh" else " ") + finished(scene, more)
    scene.say(answer)
    return scene.dialogue(scene.beside([*conditions.others(words), *_steps(words)]))


def invented(random: Random, words: Words, world: object = None) -> Dialogue:
    """Two invented tools: one finds a thing by its name, the other does something with the key that was found."""
    scene = Scene(random, words, "sequence_invented")
    page = words.pages["sequences"]["invented"]
    named, said = {}, {"name": draw(random, words, pick(random, ("person", "product", "project", "word", "venue"))).said}
    for part, share in (("noun", 0.66), ("verb", 0.8), ("key", 1.0)):
        # "ticket=工单": the word in names, and the word in sentences.
        word = pick(random, page[f"{part}s"]) if random.random() < share else pseudo.word(random)
        named[part], _, spoken = word.partition("=")
        said[part] = spoken or named[part]
    code = draw(random, words, pick(random, ("id", "id", "number_id")))
    keys = (named["key"], f"{named['noun']}_{named['key']}", named["noun"])
    found, wanted = (restyle(pick(random, keys), "snake") for _ in range(2))
    find = scene.declare(_made(random, page, "find", named, said, Parameter("value", ("name", "query"), "name", True)))
    do = scene.declare(_made(random, page, "do", named, said, Parameter("value", (wanted,), code.kind, True)))
    conditions.ask(scene, tight(_put(pick(random, page["requests"]), said)))
    scene.call((find, {"value": Value(said["name"], said["name"], "name")}))
    if _stopped(scene):
        return scene.dialogue(scene.beside(conditions.others(words)))
    fields = {found: code.given, "name": said["name"]}
    if random.random() < 0.5:
        fields[pseudo.word(random)] = draw(random, words, pick(random, ("id", "date", "count", "city", "person"))).given
    items = list(fields.items())
    random.shuffle(items)
    scene.result(scene.printed(dict(items), {}))
    scene.call((do, {"value": code}))
    scene.result(returned(scene))
    scene.say(tight(_put(pick(random, page["answers"]), {**said, "code": code.said})))
    return scene.dialogue(scene.beside(conditions.others(words)))


def linked(random: Random, words: Words, world: object = None) -> Dialogue:
    """Two tools of the world: the second request leaves out a value, and the first result has one of its kind."""
    frames = words.pages["sequences"].get("linked")
    if not frames:
        return sequence(random, words)
    scene = Scene(random, words, "sequence_linked")
    first, field, second, frame, slot = pick(random, _pairs(words))
    ask, do = scene.declare(first), scene.declare(second)
    begin = tools.ask(random, words, ask)
    for _ in range(5):
        if not begin.open:
            break
        begin = tools.ask(random, words, ask)
    end = tools.ask(random, words, do, frame=frame)
    text = pick(random, frames)
    parts = {
        "first": sentence(words.language, begin.text),
        "second": end.text if end.open else sentence(words.language, end.text),
    }
    if end.open and not text.endswith("{second}"):
        text = next(frame for frame in frames if frame.endswith("{second}"))
    conditions.ask(scene, joined(text, {**parts, "field": " ".join(name_words(field))}))
    scene.call((ask, dict(begin.values)))
    if _stopped(scene):
        return scene.dialogue(tools.toolbox(random, words, [ask, do]))
    content, fields = tools.result(random, words, ask, begin)
    scene.result(content)
    values = {**end.values, slot: fields[field]}
    whole = tools.Request(end.text, values, do.arguments(values))
    scene.call((do, values))
    content, fields = tools.result(random, words, do, whole)
    scene.result(content)
    scene.say(tools.answer(random, words, do, whole, fields))
    return scene.dialogue(tools.toolbox(random, words, [ask, do]))


def referred(random: Random, words: Words, world: object = None) -> Dialogue:
    """Two tools of the world: the second request speaks of what the first one found ("at that place", "on that day")."""
    page = words.pages["sequences"]
    if "refs" not in page:
        return linked(random, words)
    scene = Scene(random, words, "sequence_linked")
    pairs = _link_pairs(words)
    first, second, links = pick(random, pairs[True] if pairs[True] and random.random() < 0.25 else pairs[False])
    first, second = _disguised(random, words, first), _disguised(random, words, second)
    ask, do = scene.declare(first), scene.declare(second)
    begin = tools.ask(random, words, ask)
    content, fields = tools.result(random, words, ask, begin)
    chosen = dict(links.items() if random.random() < 0.6 else [pick(random, list(links.items()))])
    told = {value.kind for value in begin.values.values()}
    refs = {slot: _reference(random, page["refs"], field, fields[field], told) for slot, field in chosen.items()}
    end = tools.ask(random, words, do, known=refs)
    touching = any(one.said + other.said in end.text for one in refs.values() for other in refs.values())
    if begin.open or touching or not set(chosen) <= set(end.values):
        return linked(random, words)
    frame = pick(random, page["then"])
    parts = {
        "first": sentence(words.language, begin.text),
        "second": end.text if end.open else sentence(words.language, end.text),
    }
    parts |= {"begun": parts["first"].rstrip(".?!。？！"), "end": _small(words.language, parts["second"])}
    text = frame
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    conditions.ask(scene, text)
    scene.call((ask, dict(begin.values)))
    if _stopped(scene):
        return scene.dialogue(tools.toolbox(random, words, [ask, do]))
    scene.result(content)
    values = dict(end.values)
    scene.call((do, values))
    whole = tools.Request(end.text, {**values, **{slot: fields[field] for slot, field in chosen.items()}}, do.arguments(values))
    content, fields = tools.result(random, words, do, whole)
    scene.result(content)
    scene.say(tools.answer(random, words, do, whole, fields))
    return scene.dialogue(tools.toolbox(random, words, [ask, do]))


def _disguised(random: Random, words: Words, told: ToolWords) -> ToolWords:
    return disguise(random, words, told) if told.recipe is None and random.random() < 0.3 else told


def _small(language: str, text: str) -> str:
    """A request inside a sentence; names and abbreviations keep their capital."""
    return (
        text[:1].lower() + text[1:] if language == "en" and text[1:2].islower() and text.split(" ")[0] in _VERBS.split() else text
    )


def _links(first: ToolWords, second: ToolWords, words: Words) -> dict[str, str]:
    """Required slots of the second tool -> the one field of the first result that has their kind."""
    found = {}
    for leaf in second.leaves():
        fields = [name for name, kind in first.results.items() if kind == leaf.kind]
        if leaf.required and len(fields) == 1 and (leaf.kind in _LINKS or leaf.kind in words.names):
            found[leaf.slot] = fields[0]
    return found if len(set(found.values())) == len(found) else {}


Linked = list[tuple[ToolWords, ToolWords, dict[str, str]]]
_LINKED: dict[int, tuple[Words, dict[bool, Linked]]] = {}


def _link_pairs(words: Words) -> dict[bool, Linked]:
    """All tools of the world of which the second needs what the first returns, and the links; True: those of several links."""
    known = _LINKED.get(id(words))
    if known is None:
        pairs = [(first, second, _links(first, second, words)) for first in words.tools for second in words.tools]
        pairs = [pair for pair in pairs if pair[2] and pair[0] is not pair[1]]
        known = (words, {False: pairs, True: [pair for pair in pairs if len(pair[2]) > 1]})
        _LINKED[id(words)] = known
    return known[1]


def _reference(random: Random, refs: Mapping[str, list[str]], field: str, value: Value, told: set[str]) -> Value:
    """How a request speaks of a value that is not known yet; dates and times keep wording from putting it into quotes.

    told: kinds of which a value was said already, so that "that place" would be that one.
    """
    plain = value.kind in told or random.random() > 0.7
    said = pick(random, refs["other"] if plain else refs.get(value.kind, refs["other"]))
    return Value(said.replace("{field}", " ".join(name_words(field))), value.given, "date")


def _stopped(scene: Scene) -> bool:
    """Now and then a step finds nothing, or fails: that is told, and nothing more is called."""
    random, pages = scene.random, scene.words.pages
    chance = random.random()
    nothing = pages["sequences"].get("nothing")
    if chance < 0.06 and nothing:
        scene.result(pick(random, nothing["results"]))
        scene.say(nothing["answer"])
        return True
    if chance < 0.1:
        error = pick(random, pages["failures"]["hard"])
        scene.result(told(random, error))
        scene.say(pages["failures"]["failed"].replace("{error}", error))
        return True
    return False


Pair = tuple[ToolWords, str, ToolWords, Frame, str]
_PAIRS: dict[int, tuple[Words, list[Pair]]] = {}


def _pairs(words: Words) -> list[Pair]:
    """Tools that go together: (first, its field, second, the second's request without a value, the slot of that value)."""
    known = _PAIRS.get(id(words))
    if known is not None:
        return known[1]
    found = []
    for second in words.tools:
        kinds = {leaf.slot: leaf.kind for leaf in second.leaves()}
        for frame, slot in cuts(words.language, second):
            if kinds[slot] not in _LINKS and kinds[slot] not in words.names:
                continue
            for first in words.tools:
                fields = [name for name, kind in first.results.items() if kind == kinds[slot]]
                if len(fields) == 1 and first is not second:
                    found.append((first, fields[0], second, frame, slot))
    _PAIRS[id(words)] = (words, found)
    return found


_SPOKEN = {"find": ("find", "found", "named"), "do": ("does", "done", "described")}  # lists of names and descriptions


def _made(
    random: Random, page: Mapping[str, Any], part: str, named: Mapping[str, str], said: Mapping[str, str], parameter: Parameter
) -> ToolWords:
    """One of the two tools; named: the words of identifiers, said: those of sentences."""
    names, told, described = (pick(random, page[key]) for key in _SPOKEN[part])
    name = _put(names, named).replace(" ", "_")
    parameter = replace(parameter, descriptions=(tight(_put(described, said)),))
    return ToolWords((name,), (tight(_put(told, said)),), (), (parameter,), domain="page", key=f"~{name}")


def _put(text: str, said: Mapping[str, str]) -> str:
    for name, part in said.items():
        text = text.replace("{" + name + "}", part).replace("{" + name.capitalize() + "}", capital(part))
    return text


def tight(text: str) -> str:
    """Without blanks between Chinese characters; a frame has them for words that may be of either script."""
    return _LOOSE.sub("", text)


def _arguments(scene: Scene, step: Mapping[str, Any], tool: Tool, lists: Mapping[str, Any]) -> dict[str, Value]:
    values = {}
    for leaf in tool.words.leaves():
        source = step.get("arguments", {}).get(leaf.slot)
        if source is None:
            values[leaf.slot] = scene.draw(leaf.slot, leaf.kind, lists, keep=tuple(lists))
        else:
            given = scene.given(source)
            values[leaf.slot] = Value(str(given), given, leaf.kind)
    return values


def _result(scene: Scene, step: Mapping[str, Any], lists: Mapping[str, Any]) -> str:
    """What a step returns; its fields are slots from now on. In a list the right entry stands among others."""
    random = scene.random
    spellings = step.get("spellings", {})
    fields = {name: scene.given(spec) for name, spec in step["result"].items()}
    among = step.get("among")
    many = step.get("first", False) or (among is not None and random.random() < 0.45)
    scene.bind({name: value for name, value in fields.items() if name not in scene.slots})
    if not many:
        return scene.printed(fields, spellings, step.get("texts", ()))
    chosen = {name: pick(random, spellings.get(name, (name,))) for name in fields}
    entries = [_decoy(scene, step, lists, fields, among) for _ in range(random.randint(1, _MOST_DECOYS))]
    entries.insert(0 if among is None else random.randint(0, len(entries)), fields)
    rows = [{chosen[name]: value for name, value in entry.items()} for entry in entries]
    shape = random.random()
    if shape < 0.45:
        return packed(random, rows)
    if shape < 0.8:
        return packed(random, {pick(random, ("results", "items", "hits", "matches", "data", "entries")): rows})
    mark = pick(random, ("- ", "* ", "", "{}. "))
    lines = [mark.format(place) + ", ".join(f"{key}: {value}" for key, value in row.items()) for place, row in enumerate(rows, 1)]
    return "\n".join(lines)


def _decoy(
    scene: Scene, step: Mapping[str, Any], lists: Mapping[str, Any], right: Mapping[str, Any], among: str | None
) -> dict[str, Any]:
    """Another entry: the same fields with other values."""
    random, words = scene.random, scene.words
    found = {}
    for name, spec in step["result"].items():
        slot = _SLOT.fullmatch(spec) if isinstance(spec, str) else None
        if slot is None:
            found[name] = scene.given(spec)
            continue
        source = lists.get(slot[1], slot[1])
        for _ in range(5):
            if isinstance(source, list):
                found[name] = pick(random, source)
            else:
                found[name] = draw(random, words, source.removeprefix("@")).given
            if found[name] != right[name]:
                break
        else:
            found[name] = pseudo.word(random)
    return found


def _steps(words: Words) -> list[ToolWords]:
    return [inline(step["tool"]) for entry in words.pages["sequences"]["chain"] for step in entry["step"]]


def chained(random: Random, words: Words, world: object = None) -> Dialogue:
    """Tools of the world in a chain, mostly with words for what is not known yet, else with the name of its field."""
    return referred(random, words) if random.random() < 0.7 else linked(random, words)


_VERBS = (
    "Add Ask Book Buy Call Cancel Check Create Delete Find Get Give Look Make Move Open Order Play Print Put Remove Reserve "
    "Search Send Set Show Start Stop Tell Write"
)
KINDS = {"sequence": (3.0, sequence), "sequence_linked": (3.0, chained), "sequence_invented": (2.0, invented)}
