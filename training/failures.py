"""Dialogues in which a tool fails: report it, or take the way out that the error or the request names."""

import json
from random import Random

from training import actions, conditions, outcome, tools
from training.dialogue import Dialogue
from training.kinds import Value, draw
from training.pseudo import pick
from training.scene import Scene, joined
from training.single import draw_tools
from training.tools import Request, Tool
from training.wording import sentence
from training.world import Parameter, Words

# Kinds whose values nobody misspells.
_SURE = ("enum", "flag", "object", "date", "time", "moment", "duration", "small", "percent", "degrees", "year", "amount", "count")


def failure(random: Random, words: Words, world: object = None) -> Dialogue:
    """One call that fails, and what comes of it."""
    scene = Scene(random, words, "failure")
    tool = scene.declare(draw_tools(random, words, 1)[0])
    request = tools.ask(random, words, tool)
    changeable = [leaf for leaf in tool.words.leaves() if _can_change(leaf, request)]
    way = pick(random, ("busy", "meant", "hard", "again", "instead", "fallback", "report"))
    if way in ("meant", "instead", "fallback"):
        # "Take X instead" says one thing only where one value can change.
        if not changeable or request.open or (way != "meant" and len(changeable) > 1):
            way = "busy"
        else:
            slot = pick(random, changeable)
            _changed(scene, tool, request, way, slot.slot, draw(random, words, slot.kind, slot))
            return scene.dialogue(scene.beside(conditions.others(words)))
    if way == "report" and request.open:
        way = "hard"
    _same(scene, tool, request, way)
    return scene.dialogue(scene.beside(conditions.others(words)))


def _same(scene: Scene, tool: Tool, request: Request, way: str) -> None:
    """It fails: busy and called again at once, reported, reported to somebody, or repeated when the user says so."""
    random, words = scene.random, scene.words
    page = words.pages["failures"]
    todo = actions.act(scene, 1, "does") if way == "report" else []
    text = sentence(words.language, request.text) if todo else tools.polish(random, words, request)
    if todo:
        text = joined(pick(random, page["report"]), {"do": todo[0].clause}).replace("{request}", text)
    scene.user(text)
    scene.call((tool, dict(request.values)))
    error = pick(random, page["busy" if way == "busy" else "hard"])
    scene.result(told(random, error))
    failed = page["failed"].replace("{error}", error)
    if way == "busy":
        _serve(scene, tool, request)
    elif todo:
        scene.call(todo[0].call())
        scene.result(actions.returned(scene))
        scene.say(failed + ("" if words.language == "zh" else " ") + actions.finished(scene, todo))
    else:
        scene.say(failed)
        if way == "again":
            scene.user(pick(random, page["again"]))
            _serve(scene, tool, request)


def _changed(scene: Scene, tool: Tool, request: Request, way: str, slot: str, other: Value) -> None:
    """It fails with one value, and is called with another that the error, the request or the user names."""
    random, words = scene.random, scene.words
    page = words.pages["failures"]
    values = {**request.values, slot: other}
    second = Request(request.text, values, tool.arguments(values))
    if way == "fallback":
        text = (
            pick(random, page["fallback"])
            .replace("{request}", sentence(words.language, request.text))
            .replace("{value}", other.said)
        )
    else:
        text = tools.polish(random, words, request)
    scene.user(text)
    scene.call((tool, dict(request.values)))
    error = pick(random, page["hard"])
    if way == "meant":
        error = pick(random, page["meant"]).replace("{wrong}", request.values[slot].said).replace("{right}", other.said)
    scene.result(told(random, error))
    if way == "instead":
        scene.say(page["failed"].replace("{error}", error))
        scene.user(pick(random, page["instead"]).replace("{value}", other.said))
    _serve(scene, tool, second)


def _serve(scene: Scene, tool: Tool, request: Request) -> None:
    """The call, which works now, and the answer."""
    scene.call((tool, dict(request.values)))
    content, fields = outcome.result(scene.random, scene.words, tool)
    scene.result(content)
    scene.say(outcome.tell(scene.random, scene.words, tool, request, fields))


def told(random: Random, error: str) -> str:
    """An error as tools print it."""
    shape = random.random()
    if shape < 0.4:
        return json.dumps({pick(random, ("error", "error", "message", "reason")): error}, ensure_ascii=False)
    if shape < 0.55:
        return json.dumps({"status": "error", "message": error}, ensure_ascii=False)
    if shape < 0.65:
        return json.dumps({"ok": False, "error": error}, ensure_ascii=False)
    return pick(random, ("Error: ", "error: ", "ERROR: ", "", "failed: ")) + error


def _can_change(leaf: Parameter, request: Request) -> bool:
    if leaf.slot not in request.values or leaf.kind in _SURE or leaf.kind.startswith("list:"):
        return False
    return not request.values[leaf.slot].free


KINDS = {"failure": (2.0, failure)}
