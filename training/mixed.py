"""Long dialogues over the same declarations, in which every request is another matter.

One tool serves it, or several at once do, or it lacks a value, or nothing at hand serves it, or it is talk: only the request
and the declarations tell which.
"""

from random import Random

from training import missing, single, talk, tools
from training.dialogue import Dialogue
from training.disguise import disguise
from training.pseudo import pick
from training.scene import Scene, subjects
from training.tools import Request, Tool
from training.world import Words

_TURNS = ("served",) * 11 + ("together",) * 2 + ("unserved",) * 3 + ("missing",) * 2 + ("talk",) * 2
_TALK = ("greeting", "thanks", "identity", "facts", "writing", "opinions", "remark")
_BESIDE = (0, 0, 0, 1, 1, 2, 3, 4, 6, 8)  # tools that nobody asks for


def mixed(random: Random, words: Words, world: object = None) -> Dialogue:
    """Three to nine requests over one to twelve tools."""
    scene = Scene(random, words, "mixed")
    for told in single.draw_tools(random, words, pick(random, (1, 2, 3, 3, 4, 4, 5, 6, 8))):
        scene.declare(told)
    absent = _absent(random, words, scene)
    declared = tools.toolbox(random, words, scene.tools, [tool.words for tool in absent], pick(random, _BESIDE))
    waiting: list[Tool] = []
    before: tuple[Tool, Request] | None = None
    for _ in range(pick(random, (3, 4, 5, 6, 7, 8, 9))):
        # Each tool has its turn before one is asked for again.
        waiting = waiting or random.sample(scene.tools, len(scene.tools))
        matter = pick(random, _TURNS)
        if matter == "together" and len(waiting) > 1:
            text, asked = single.together(random, words, [waiting.pop(), waiting.pop()])
            scene.user(text)
            single.serve(random, words, scene.messages, asked, last=False)
        elif matter == "unserved" and absent:
            request = tools.ask(random, words, absent.pop())
            scene.user(tools.polish(random, words, request))
            scene.say(pick(random, words.pages["talk"]["unserved"]["answers"]))
        elif matter == "missing" and (frames := missing.lacking(random, words, waiting[-1].words)):
            missing.asked(scene, waiting.pop(), *pick(random, frames))
        elif matter == "talk":
            talk.chat(scene, pick(random, _TALK), declared)
        else:
            before = _served(scene, waiting.pop(), before)
            continue
        before = None
    return scene.dialogue(declared)


def _served(scene: Scene, tool: Tool, before: tuple[Tool, Request] | None) -> tuple[Tool, Request]:
    """One request, its call, result and answer; now and then the one before once more with another value."""
    random, words = scene.random, scene.words
    more = single.again(random, words, *before) if before is not None and random.random() < 0.12 else None
    if before is None or more is None:
        request = tools.ask(random, words, tool)
        scene.user(tools.polish(random, words, request))
    else:
        tool, request = before[0], more
        scene.user(request.text)
    single.serve(random, words, scene.messages, [(tool, request)], last=False)
    return tool, request


def _absent(random: Random, words: Words, scene: Scene) -> list[Tool]:
    """Tools that are not declared: nothing declared is about the same, though it may be near."""
    taken = {subject for tool in scene.tools for subject in subjects(tool.words)}
    keys = {tool.words.key for tool in scene.tools}
    found = []
    for _ in range(6):
        near = words.domains.get(pick(random, scene.tools).words.domain, ())
        told = pick(random, near if near and random.random() < 0.4 else words.tools)
        if told.key not in keys and not subjects(told) & taken:
            keys.add(told.key)
            found.append(tools.declare(random, words, disguise(random, words, told) if random.random() < 0.4 else told))
    return found[:3]


KINDS = {"mixed": (2.0, mixed)}
