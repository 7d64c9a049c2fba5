"""Dialogues of several user turns about one thing: a question, then more places, then notes, reminders and messages about it.

"It" and "that" are the answer before, word for word without its last mark; "the same" is the text of the call before.
"""

from random import Random

from training import actions, conditions, outcome, talk, tools
from training.conditions import Fact
from training.dialogue import Dialogue
from training.kinds import Value
from training.pseudo import pick
from training.scene import Scene, joined, weighed
from training.single import draw_tools
from training.spelling import name_words
from training.tools import Tool
from training.world import Words

# How a turn may begin that nothing went before.
_FIRST = ("{Do}", "{do}", "Please", "Could", "Can", "请", "帮", "能", "可", "麻烦")
_STATES = ("ok", "status", "state", "result", "success", "done")  # fields that nobody wants noted


def workflow(random: Random, words: Words, world: object = None) -> Dialogue:
    """A question or a task, then one to four turns that follow from it."""
    scene = Scene(random, words, "workflow")
    page = words.pages["workflows"]
    text, fact = ("", None) if random.random() < 0.3 else _first(scene)
    said = ""
    if not text and random.random() < 0.6:  # tools for other things that requests of this kind may be mistaken for
        scene.declare(weighed(random, words.pages["conditions"]["probe"])["tool"])
    for _ in range(pick(random, (1, 1, 2, 2, 3, 4))):
        chance = random.random()
        if fact and chance > 0.88:
            noted = _note_field(scene, *fact)
            text, said = ("", noted) if noted else (text, said)  # "it" would have two meanings
            continue
        if chance < 0.12:
            talk.chat(scene, "thanks")
            continue
        form = "again" if said and chance < 0.4 else ("it" if text and chance < 0.75 else "does")
        todo = _actions(scene, form, 2 if form == "it" and chance > 0.65 else 1)
        clause = todo[0].clause
        if len(todo) == 2:
            clause = joined(pick(random, page["both"]), {"first": clause, "second": todo[1].clause})
        frames = page["turns"]
        if all(message["role"] == "system" for message in scene.messages):
            frames = [frame for frame in frames if frame.startswith(_FIRST)]
        scene.user(joined(pick(random, frames), {"do": clause}))
        todo = [action.about(said if form == "again" else text) for action in todo]
        scene.call(*(action.call() for action in todo))
        scene.result(*(actions.returned(scene, action) for action in todo))
        scene.say(actions.finished(scene, todo))
        fact = None  # another result came in since
        told = [action.values[action.text].said for action in todo if action.text]
        if form == "does":
            text = said = ""  # something else was spoken of since: "it" would have two meanings
        said = told[-1] if told else said
    if random.random() < 0.25:
        talk.chat(scene, pick(random, ("thanks", "farewell")))
    return scene.dialogue(scene.beside(conditions.others(words)))


def _actions(scene: Scene, form: str, count: int) -> list[actions.Action]:
    """Different actions that have this form."""
    found = actions.act(scene, count, form)
    return found or actions.act(scene, 1, "does")


def _note_field(scene: Scene, field: str, value: str) -> str:
    """A turn that wants one field of the result noted or sent; the text of the call, empty where no action can do that."""
    random, words = scene.random, scene.words
    todo = actions.act(scene, 1, "field", {"field": Value(field, field, "field")}) if "value" in words.pages["actions"] else []
    if not todo:
        return ""
    scene.user(joined(pick(random, words.pages["workflows"]["turns"]), {"do": todo[0].clause}))
    noted: str = words.pages["actions"]["value"].replace("{field}", field).replace("{value}", value)
    scene.call(todo[0].about(noted).call())
    scene.result(actions.returned(scene))
    scene.say(actions.finished(scene, todo))
    return noted


def _first(scene: Scene) -> tuple[str, tuple[str, str] | None]:
    """The beginning; returns the answer that `it` means from then on, and a field of the result with its value, or None."""
    random = scene.random
    chance = random.random()
    if chance < 0.2:
        return _asked(scene), None
    if chance < 0.35 and "then_if" in scene.words.pages["workflows"]:
        return _then_if(scene), None
    if chance < 0.45:
        return _two(scene), None
    if chance < 0.58:
        return _several(scene), None
    if chance < 0.7:
        return _decided(scene), None
    return _served(scene)


def _asked(scene: Scene) -> str:
    """A question of conditions.toml: the state of something, or yes and no."""
    if scene.random.random() < 0.5:
        return bare(conditions.advise(scene).says(scene))
    fact = conditions.probe(scene)
    conditions.ask(scene, conditions.said(scene, fact.probe, fact.probe["questions"]))
    return _state(scene, fact)


def _state(scene: Scene, fact: Fact) -> str:
    conditions.look(scene, fact)
    says = conditions.said(scene, fact.probe, fact.probe["states"])
    scene.say(says)
    return bare(says)


def _several(scene: Scene) -> str:
    """The same question about two or three things, one a turn."""
    random, words = scene.random, scene.words
    fact = conditions.probe(scene)
    conditions.ask(scene, conditions.said(scene, fact.probe, fact.probe["questions"]))
    text = _state(scene, fact)
    asked = fact.tool.words.leaves()[0].slot
    for _ in range(pick(random, (1, 1, 2))):
        kept = {slot: value for slot, value in fact.values.items() if slot != asked}
        before = scene.slots[asked].said
        for _ in range(10):
            scene.slots = dict(kept)
            again = conditions.drawn(scene, fact.probe, pick(random, fact.probe["case"]), again=True)
            if again.values[asked].said != before:
                break
        scene.user(pick(random, words.pages["workflows"]["same"]).replace("{value}", again.values[asked].said))
        text = _state(scene, again)
    return text


def _two(scene: Scene) -> str:
    """One question about two things: two calls at once, and what each is like."""
    return bare(conditions.both(scene))


def _decided(scene: Scene) -> str:
    """A condition with what is to be done; later turns speak of what was noted then."""
    fact = conditions.decide(scene)
    return fact.note(scene)


def _then_if(scene: Scene) -> str:
    """A question; in the next turn a condition on its answer, and what to do then."""
    random, page = scene.random, scene.words.pages["workflows"]
    fact = conditions.probe(scene)
    conditions.ask(scene, conditions.said(scene, fact.probe, fact.probe["questions"]))
    _state(scene, fact)
    todo = actions.act(scene, pick(random, (1, 1, 2)), known=fact.pair(scene))
    clause = todo[0].clause
    if len(todo) == 2:
        clause = joined(pick(random, page["both"]), {"first": clause, "second": todo[1].clause})
    scene.user(joined(pick(random, page["then_if"]), {"if": fact.condition(scene), "do": clause}))
    conditions.follow(scene, fact, todo if fact.holds else [])
    return fact.note(scene)


def _served(scene: Scene) -> tuple[str, tuple[str, str] | None]:
    """A task for a tool of the world that returns something, served."""
    random, words = scene.random, scene.words
    for _ in range(20):
        told = draw_tools(random, words, 1)[0]
        if told.results and told.answers:
            break
    tool: Tool = scene.declare(told)
    request = tools.ask(random, words, tool)
    scene.user(tools.polish(random, words, request))
    values: dict[str, Value] = dict(request.values)
    scene.call((tool, values))
    content, fields = outcome.result(random, words, tool)
    scene.result(content)
    answer = outcome.answer(random, words, tool, request, fields)
    scene.say(answer)
    telling = [name for name, value in fields.items() if not isinstance(value.given, bool) and name not in _STATES]
    if not telling:
        return bare(answer), None
    field = pick(random, telling)
    return bare(answer), (" ".join(name_words(field)), fields[field].said)


def bare(text: str) -> str:
    """A sentence without its last mark."""
    return text.rstrip(".。!！?？")


KINDS = {"workflow": (4.0, workflow)}
