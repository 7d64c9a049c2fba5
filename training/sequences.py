"""Dialogues of two to four calls in a row, each of which needs what an earlier one returned."""

import re
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from training import conditions, pseudo
from training.actions import act, finished, returned
from training.dialogue import Dialogue
from training.failures import told
from training.kinds import Value, draw
from training.pseudo import pick
from training.scene import Scene, inline, joined, packed
from training.spelling import capital, restyle
from training.tools import Tool
from training.world import Parameter, ToolWords, Words

_SLOT = re.compile(r"\{(\w+)\}")
_LOOSE = re.compile(r"(?<=[\u4e00-\u9fff，。：；？！]) +(?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff]) +(?=[，。：；？！])")
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
        if tool is not declared[-1] and stopped(scene):
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
    if stopped(scene):
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


def stopped(scene: Scene) -> bool:
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


KINDS = {"sequence": (3.0, sequence), "sequence_invented": (2.0, invented)}
