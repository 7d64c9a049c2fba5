"""Conditions on whatever a tool of the world returns: if the status is delivered, if the price is above 300, do something."""

from random import Random

from training import actions, outcome, tools
from training.conditions import condition, others
from training.dialogue import Dialogue
from training.kinds import Value, draw
from training.pseudo import pick
from training.scene import Scene, joined
from training.single import draw_tools
from training.spelling import name_words
from training.wording import sentence
from training.world import ToolWords, Words


def check(random: Random, words: Words, world: object = None) -> Dialogue:
    """A request, a condition on a field of its result, and what is done when it holds."""
    page = words.pages["conditions"]
    if "checks" not in page:
        return condition(random, words)
    scene = Scene(random, words, "check")
    told, field = _with_field(random, words)
    tool = scene.declare(told)
    request = tools.ask(random, words, tool)
    for _ in range(8):
        if not request.open:
            break
        request = tools.ask(random, words, tool)
    content, fields = outcome.result(random, words, tool)
    found = fields[field]
    how, asked, holds = _condition(random, words, told.results[field], found)
    todo = actions.act(scene, pick(random, (1, 1, 2)))
    clause = todo[0].clause
    if len(todo) == 2:
        clause = pick(random, page["both"]).replace("{}", clause, 1).replace("{}", todo[1].clause, 1)
    said = " ".join(name_words(field))
    parts = {"first": sentence(words.language, request.text), "field": said, "value": asked, "do": clause}
    scene.ask(joined(pick(random, page["checks"][how]), parts))
    scene.call((tool, dict(request.values)))
    scene.result(content)
    says = joined(page["checked"], {"field": said, "value": found.said})
    end = pick(random, page["undone"])
    if holds:
        note = joined(page["noted"], {"subject": said, "fact": found.said})
        todo = [action.about(note) for action in todo]
        scene.call(*(action.call() for action in todo))
        scene.result(*(actions.returned(scene, action) for action in todo))
        end = actions.finished(scene, todo)
    scene.say(says + ("" if words.language == "zh" else " ") + end)
    return scene.dialogue(scene.beside(others(words)))


def _with_field(random: Random, words: Words) -> tuple[ToolWords, str]:
    """A tool that returns something, and a field of it."""
    while True:
        told = draw_tools(random, words, 1)[0]
        fields = [name for name, kind in told.results.items() if isinstance(kind, list) or _plain(kind)]
        if fields:
            return told, pick(random, fields)


def _plain(kind: str) -> bool:
    return not kind.startswith("list:") and kind != "code"


def _condition(random: Random, words: Words, kind: str | list[str], found: Value) -> tuple[str, str, bool]:
    """is, above or below; the value that the condition names; whether it holds."""
    if isinstance(found.given, str | bool):
        other = pick(random, kind) if isinstance(kind, list) else draw(random, words, kind).said
        same = random.random() < 0.5 or other.lower() in found.said.lower() or found.said.lower() in other.lower()
        return "is", found.said if same else other, same
    above, holds = random.random() < 0.5, random.random() < 0.5
    gap = pick(random, (1, 2, 3, 5, 10, 20, 50, 100))
    value = int(found.given)
    limit = value - gap if above == holds else value + gap
    if value >= 0 > limit:
        limit, holds = value + gap, not above
    return "above" if above else "below", str(limit), (found.given > limit) == above


KINDS = {"check": (3.0, check)}
