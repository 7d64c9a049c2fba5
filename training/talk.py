"""Dialogues whose right answer has no call: small talk, what it is and has, what it must decline, what no tool serves."""

import re
from collections.abc import Mapping
from random import Random
from typing import Any

from training import invent, single, tools
from training.conditions import others
from training.dialogue import Dialogue
from training.disguise import disguise, vocabulary
from training.kinds import Value
from training.pseudo import pick
from training.scene import Scene, subjects
from training.tools import Tool
from training.wording import sentence
from training.world import ToolWords, Words

# How often each group is drawn; those about tools need some.
GROUPS = {
    "greeting": 3,
    "thanks": 2,
    "farewell": 1,
    "identity": 4,
    "facts": 4,
    "writing": 3,
    "opinions": 3,
    "ability": 2,
    "ability_tools": 1,
    "list_tools": 1,
    "about_tool": 3,
    "no_call": 2,
    "mention": 2,
    "remark": 2,
}
_ABOUT_TOOLS = ("ability_tools", "list_tools", "about_tool", "no_call", "mention")
_BARE = [group for group, weight in GROUPS.items() for _ in range(weight) if group not in _ABOUT_TOOLS]
_WITH_TOOLS = [group for group, weight in GROUPS.items() for _ in range(weight) if group != "ability"]
_SERVED = 3  # tools beside what is not served that may be asked for
_ASIDE = ("greeting", "thanks", "farewell", "identity", "facts", "writing", "opinions")
_ANY_THING = ("topic", "subject")  # what talk may be about is any word
_FIXED = (
    "hello", "piece", "program", "language", "pair", "sum", "tongue", "saying", "rival", "feeling", "kin", "trade", "age",
    "glyph", "other_kin", "other_trade", "other_language", "other_tongue", "other_person",
)  # fmt: skip
_LONG = re.compile(r"(?<![{A-Za-z'])[a-z]{5,}(?![}\w'])")
_PAIR = re.compile("[\u4e00-\u9fff]{2}")
_MOST_TOLD = 5  # tools in an answer that tells their purposes


def talk(random: Random, words: Words, world: object = None) -> Dialogue:
    """One to four turns of talk; with tools declared, now and then a task among them that is carried out."""
    scene = Scene(random, words, "talk")
    if random.random() < 0.4:
        for _ in range(pick(random, (1, 1, 2, 3))):
            chat(scene, pick(random, _BARE))
        return scene.dialogue([])
    served = [_some_tool(scene) for _ in range(pick(random, (1, 1, 1, 2, 2, 3, 4)))]
    turns = [pick(random, _WITH_TOOLS) for _ in range(pick(random, (1, 1, 2, 2, 3)))]
    task = int(random.random() * (len(turns) + 1)) if random.random() < 0.35 else -1
    most = _MOST_TOLD - len(scene.tools) if "ability_tools" in turns else 11
    natural = random.sample(words.tools, min(len(words.tools), 12))
    declared = scene.beside([*others(words), *natural], most)
    for place, group in enumerate(turns):
        if place == task:
            serve(scene, pick(random, served))
        chat(scene, group, declared)
    if task == len(turns):
        serve(scene, pick(random, served))
        if random.random() < 0.6:
            chat(scene, pick(random, ("thanks", "thanks", "farewell")), declared)
    return scene.dialogue(declared)


def unserved(random: Random, words: Words, world: object = None) -> Dialogue:
    """Requests that no declared tool serves, though some come near, among requests that a tool does serve."""
    scene = Scene(random, words, "unserved")
    plain = _any_words(random, words, 0.2)
    told = disguise(random, words, plain) if plain.recipe is None and random.random() < 0.5 else plain
    wanted = tools.declare(random, words, told)
    answers = words.pages["talk"]["unserved"]
    if random.random() < 0.12:
        scene.user(tools.polish(random, words, tools.ask(random, words, wanted)))
        scene.say(pick(random, answers["with_none"]))
        return scene.dialogue([])
    # A tool in disguise is another one than the tool that it was made of.
    if random.random() < 0.4:
        declared, keys = _unrelated(scene, wanted)
    else:
        declared, keys = _near_misses(scene, wanted, plain if told is not plain and random.random() < 0.4 else None)
    taken = {subject for tool in scene.tools for subject in subjects(tool.words)}
    turns = pick(random, (1, 1, 2, 2, 3, 4))
    first = int(random.random() * turns)
    for turn in range(turns):
        if turn != first and scene.tools and random.random() < 0.6:
            serve(scene, pick(random, scene.tools))
            continue
        if turn != first:
            told = _any_words(random, words, 0.2)
            if told.key in keys or subjects(told) & taken:
                continue
            if told.recipe is None and random.random() < 0.4:
                told = disguise(random, words, told)
            wanted = tools.declare(random, words, told)
        scene.user(tools.polish(random, words, tools.ask(random, words, wanted)))
        scene.say(pick(random, answers["answers"]))
    return scene.dialogue(declared)


def chat(scene: Scene, group: str, declared: list[dict[str, Any]] | None = None) -> None:
    """One turn of talk of this group."""
    random, page = scene.random, scene.words.pages["talk"]
    group = group if group in page else "greeting"
    functions = [tool["function"] for tool in declared or ()]
    if group == "about_tool":
        functions = [function for function in functions if function.get("description")]
        if not functions:
            group = "greeting"
    entry = page[group]
    parts: dict[str, str] = {}
    if group in _ABOUT_TOOLS:
        function = pick(random, functions)
        parts["name"] = function["name"]
        parts["description"] = function.get("description", "")
        parts["names"] = join_plainly(scene.words.language, [each["name"] for each in functions])
        parts["purposes"] = purposes(scene.words.language, functions)
    scene.slots.clear()
    prompt = _named(pick(random, [*entry["prompts"], *entry.get("alone", ())]), parts)
    for slot in _ANY_THING:
        if random.random() < 0.3:
            word = pick(random, vocabulary(scene.words)) if "vocabulary" in scene.words.frames.get("invented", {}) else ""
            text = word if not word or scene.words.language == "zh" else pick(random, ("the ", "a ", "")) + word
            if text:
                scene.slots[slot] = Value(text, text, slot)
    if group in ("facts", "remark") and random.random() < 0.3:
        prompt = _altered(random, scene.words, prompt)
    prompt = scene.fill(prompt, page["words"], keep=_FIXED)
    if group in _ASIDE and random.random() < 0.15:
        # Something else that is told with it.
        aside = sentence(scene.words.language, scene.fill(pick(random, page["remark"]["prompts"])))
        parted = "" if scene.words.language == "zh" else " "
        prompt = aside + parted + prompt if random.random() < 0.6 else sentence(scene.words.language, prompt) + parted + aside
    if random.random() < 0.12:
        prompt = prompt[:1].lower() + prompt[1:] if random.random() < 0.5 else prompt.rstrip(".?!。？！")
    scene.user(prompt)
    scene.say(_named(pick(random, entry["answers"]), parts))


def _altered(random: Random, words: Words, prompt: str) -> str:
    """A prompt with one or two of its words replaced by any others: whatever it is about, no tool has it."""
    if "vocabulary" not in words.frames.get("invented", {}):
        return prompt
    places = list((_PAIR if words.language == "zh" else _LONG).finditer(prompt))
    if words.language == "zh":
        places = [place for place in places if place[0] in vocabulary(words)]
    for place in sorted(random.sample(places, min(len(places), pick(random, (1, 1, 2)))), key=lambda place: -place.start()):
        prompt = prompt[: place.start()] + pick(random, vocabulary(words)) + prompt[place.end() :]
    return prompt


def serve(scene: Scene, tool: Tool) -> None:
    """One request that this tool serves: call, result, answer."""
    random, words = scene.random, scene.words
    request = tools.ask(random, words, tool)
    scene.user(tools.polish(random, words, request))
    single.serve(random, words, scene.messages, [(tool, request)], last=False, errors=0.1)


def join_plainly(language: str, names: list[str]) -> str:
    """a, b and c; in Chinese with 、 and 和."""
    if len(names) == 1:
        return names[0]
    comma, last = ("、", "和") if language == "zh" else (", ", " and ")
    return comma.join(names[:-1]) + last + names[-1]


def purposes(language: str, functions: list[dict[str, Any]]) -> str:
    """The tools' descriptions one after the other; a tool without one is named."""
    stop = "。" if language == "zh" else "."
    told = []
    for function in functions:
        text = function.get("description") or function["name"]
        told.append(text if text[-1:] in ".。!?！？" else text + stop)
    return ("" if language == "zh" else " ").join(told)


def _any_words(random: Random, words: Words, invented: float = 0.4) -> Any:
    return invent.invent(random, words) if random.random() < invented or not words.tools else pick(random, words.tools)


def _some_tool(scene: Scene) -> Tool:
    told = _any_words(scene.random, scene.words, 0.25)
    return scene.declare(told if told.recipe is not None else _maybe_disguised(scene.random, scene.words, told))


def _near_misses(scene: Scene, wanted: Tool, nearest: ToolWords | None = None) -> tuple[list[dict[str, Any]], set[str]]:
    """Declarations without the wanted tool, and their keys: its neighbours, tools that differ from it in one word, others.

    The first three of them that have requests become the scene's tools.
    """
    random, words = scene.random, scene.words
    names, keys = {wanted.name}, {wanted.words.key}
    found: list[dict[str, Any]] = []
    if nearest is not None:
        close = tools.declare(random, words, nearest)
        names.add(close.name)
        found.append(close.declaration)
    near = [tool for tool in words.domains.get(wanted.words.domain, ()) if tool.key != wanted.words.key]
    for _ in range(pick(random, (1, 1, 2, 2, 3, 4, 5, 6, 8, 10))):
        source = random.random()
        other: Tool | None = None
        if source < 0.35:
            other = invent.namesake(random, words, wanted)
        elif source < 0.65 and near:
            other = tools.declare(random, words, _maybe_disguised(random, words, pick(random, near)))
        elif source < 0.8 and words.tools:
            told = pick(random, words.tools)
            told = _maybe_disguised(random, words, told)
            other = tools.declare(random, words, told) if told.key != wanted.words.key else None
        if other is None:
            other = tools.declare(random, words, invent.invent(random, words))
        if other.name in names or other.words.key in keys:
            continue
        names.add(other.name)
        keys.add(other.words.key)
        found.append(other.declaration)
        if other.words.requests and len(scene.tools) < _SERVED:
            scene.tools.append(other)
    random.shuffle(found)
    return found, keys


def _unrelated(scene: Scene, wanted: Tool) -> tuple[list[dict[str, Any]], set[str]]:
    """Declarations of natural tools that have nothing to do with the wanted one, and their keys; one to three are the scene's."""
    random, words = scene.random, scene.words
    away, names, keys = subjects(wanted.words), {wanted.name}, {wanted.words.key}
    found: list[dict[str, Any]] = []
    count = pick(random, (1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12))
    for _ in range(count + 20):
        if len(found) == count:
            break
        told = pick(random, words.tools) if words.tools else invent.invent(random, words)
        other = tools.declare(random, words, told)
        if told.key in keys or told.domain == wanted.words.domain or subjects(told) & away or other.name in names:
            continue
        names.add(other.name)
        keys.add(told.key)
        found.append(other.declaration)
        if len(scene.tools) < _SERVED:
            scene.tools.append(other)
    return (found, keys) if found else _near_misses(scene, wanted)


def _maybe_disguised(random: Random, words: Words, told: ToolWords) -> ToolWords:
    return disguise(random, words, told) if random.random() < 0.4 else told


def _named(text: str, parts: Mapping[str, str]) -> str:
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    return text


KINDS = {"talk": (2.0, talk), "unserved": (2.0, unserved)}
