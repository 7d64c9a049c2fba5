"""Dialogues in which a required value is missing: the assistant asks for it, and calls once it is told."""

import re
from random import Random

from training import invent, outcome, talk, tools
from training.conditions import others
from training.dialogue import Dialogue
from training.disguise import disguise, telling
from training.kinds import Value, draw
from training.pseudo import pick
from training.scene import Scene, what
from training.spelling import name_words
from training.tools import Tool
from training.world import Frame, ToolWords, Words

_NUMBERS = ("small", "count", "amount")
# The English words that tie a value to the sentence before it; without both the sentence still stands.
_TIE = re.compile(r"\s+(?:at|for|in|on|to|from|with|of|named|called|by|about|saying|under|into|as|titled|until|after)\s*$")


def missing(random: Random, words: Words, world: object = None) -> Dialogue:
    """One to three requests, most of which lack one required value: the question for it, and the call after the answer."""
    scene = Scene(random, words, "missing")
    told, frames = _incomplete(random, words)
    tool = scene.declare(told)
    for turn in range(pick(random, (1, 1, 2, 2, 3))):
        if turn and random.random() < 0.4:
            told, frames = _incomplete(random, words)
            tool = scene.declare(told)
        if random.random() < 0.3:
            talk.serve(scene, tool)  # the same tool, nothing missing
        else:
            asked(scene, tool, *pick(random, frames))
    return scene.dialogue(scene.beside(others(words)))


def asked(scene: Scene, tool: Tool, frame: Frame, slot: str) -> None:
    """The turns of one request that lacks this slot."""
    random, words = scene.random, scene.words
    page = words.pages["missing"]
    leaf = next(leaf for leaf in tool.words.leaves() if leaf.slot == slot)
    request = tools.ask(random, words, tool, frame=frame)
    scene.user(tools.polish(random, words, request))
    scene.say(pick(random, page["asks"]).replace("{what}", what(words.language, tool, slot)))
    if random.random() < 0.1:
        scene.user(pick(random, page["dropped"]))
        scene.say(pick(random, page["leaves"]))
        return
    value = draw(random, words, leaf.kind, leaf)
    scene.user(pick(random, page["free" if value.free else "replies"]).replace("{value}", value.said))
    values: dict[str, Value] = {**request.values, slot: value}
    scene.call((tool, values))
    whole = tools.Request(request.text, values, tool.arguments(values))
    content, fields = outcome.result(random, words, tool)
    scene.result(content)
    scene.say(outcome.tell(random, words, tool, whole, fields))


def _incomplete(random: Random, words: Words) -> tuple[ToolWords, tuple[tuple[Frame, str], ...]]:
    """A tool, and its requests that lack one required slot each."""
    for _ in range(50):
        told = invent.invent(random, words) if random.random() < 0.3 or not words.tools else pick(random, words.tools)
        if told.domain != invent.DOMAIN and random.random() < 0.4:
            told = disguise(random, words, told)
        if found := lacking(random, words, told):
            return told, found
    raise ValueError(f"no tool of {words.language} has a request that could leave something out")


def lacking(random: Random, words: Words, told: ToolWords) -> tuple[tuple[Frame, str], ...]:
    """(request, the required slot it lacks): such requests of a tool; it may have none."""
    spoken = vague(random, words, told)
    return spoken if spoken and random.random() < 0.4 else cuts(words.language, told)


def cuts(language: str, told: ToolWords) -> tuple[tuple[Frame, str], ...]:
    """(request, the required slot it lacks): the written ones, and English requests without a value at their end."""
    required = {leaf.slot for leaf in told.leaves() if leaf.required and leaf.kind != "flag"}
    found = []
    for frame in told.incomplete:
        lacking = required - set(frame[1::2])
        if len(lacking) == 1:
            found.append((frame, lacking.pop()))
    kinds = {leaf.slot: leaf.kind for leaf in told.leaves()}
    if language == "en":
        asked = telling([*told.descriptions, *(" ".join(name_words(name)) for name in told.names)])
        for frame in told.requests:
            for place in range(1, len(frame), 2):
                tie = _TIE.search(frame[place - 1])
                after = frame[place + 1]
                if kinds[frame[place]] in _NUMBERS and len(after) > 1:
                    after = _COUNTED.sub("", after)  # the word that it counts goes with it
                if frame[place] in required and tie and (not after or after[0] in ".?!, "):
                    before = frame[place - 1][: tie.start()]
                    literal = before.rstrip(", ") + after
                    if not asked & telling([*frame[: place - 1 : 2], literal, *frame[place + 3 :: 2]]):
                        continue  # nothing is left that says what is wanted
                    if _STUMP.search(before) or _MEANT.search(after):
                        continue  # "the moment it sits", "Is there space? Then take it"
                    found.append(((*frame[: place - 1], literal, *frame[place + 2 :]), frame[place]))
    return tuple(found)


_BOUND = re.compile(
    r"\b(?:an?|the|my|our|your|his|her|their|this|that|every|each|another|new|old|number|no|step|level|page) *$", re.IGNORECASE
)
_ASKS = re.compile("几|多少|吗|怎么|什么|how m")
_STUMP = re.compile(
    r"\b(?:sits|lives|lies|sleep|stands|up|down|away|is|are|was|were|be|been|has|have|goes|go|got|stop|now|then|that|rid"
    "|instead|because|since|and|or|between|than|not)$"
)
_MEANT = re.compile(r"\b(?:it|them|one|there|or|and)\b")
_COUNTED = re.compile(r"^ [a-z]+(?=$|[ .,?!])")


def vague(random: Random, words: Words, told: ToolWords) -> tuple[tuple[Frame, str], ...]:
    """(request, slot): the tool's requests in which one required value is only spoken of: "somebody", "some day", "a few"."""
    spoken = words.pages["missing"].get("vague", {})
    kinds = {leaf.slot: leaf.kind for leaf in told.leaves() if leaf.required}
    found = []
    for frame in told.requests:
        for place in range(1, len(frame), 2):
            kind = kinds.get(frame[place], "")
            after = frame[place + 1]
            if kind in _NUMBERS:
                # A number before the word that it counts: some people, 几个人.
                counts = (
                    after[:1] == " " and after[1:2].isalpha()
                    if words.language == "en"
                    else after[:1].isalpha() and after[0] != "的"
                )
                counts = counts and not frame[place - 1].endswith("第") and told.recipe is None
                counts = counts and not any(_ASKS.search(literal) for literal in frame[::2])  # "how many" would be asked twice
                kind = kind if counts else ""
            if words.language == "en" and _BOUND.search(frame[place - 1]):
                continue
            if kind in spoken and frame.count(frame[place]) == 1:
                literal = frame[place - 1] + pick(random, spoken[kind]) + after
                found.append(((*frame[: place - 1], literal, *frame[place + 2 :]), frame[place]))
    return tuple(found)


KINDS = {"missing": (2.0, missing)}
