"""Dialogues in which one request needs two tools of the world: the second takes what the first one returns.

What is not known yet is said in words ("at that place", "the owner of it"), in chains of chains_*.toml by sentences written for
both tools together, else by two requests put side by side.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from random import Random

from training import conditions, outcome, tools
from training.actions import act, finished, returned
from training.details import revalued
from training.dialogue import Dialogue
from training.disguise import disguise
from training.kinds import Value
from training.missing import cuts
from training.pseudo import pick
from training.scene import Scene, Slots, joined
from training.sequences import stopped
from training.spelling import name_words
from training.tools import Request, Tool
from training.wording import sentence
from training.world import Frame, ToolWords, Words

_LINKS = ("id", "number_id", "path", "file", "folder", "url", "email", "phone", "date", "time", "moment", "word")
_VERBS = (
    "Add Ask Book Buy Call Cancel Check Create Delete Find Get Give Look Make Move Open Order Play Print Put Remove Reserve "
    "Search Send Set Show Start Stop Tell Write"
)


def chain(random: Random, words: Words, world: object = None) -> Dialogue:
    """A chain of chains_*.toml, now and then with one more thing to do at its end."""
    scene = Scene(random, words, "chain")
    drawn = pick(random, words.chains)
    first, second = revalued(random, drawn.first), revalued(random, drawn.second)
    ask, do = scene.declare(first), scene.declare(second)
    # One tool with the parameters of both, so that the request is worded like any other.
    both = tools.declare(random, words, drawn.together(first, second))
    request = tools.ask(random, words, both)
    content, fields = outcome.result(random, words, ask)
    text, more = tools.polish(random, words, request), []
    if not request.open and random.random() < 0.12:
        more = act(scene, 1, "does")
        ending = pick(random, words.pages["sequences"]["more"])
        text = joined(ending, {"first": sentence(words.language, request.text), "do": more[0].clause})
    scene.user(text)
    scene.call((ask, _of(first, request.values)))
    if stopped(scene):
        return scene.dialogue(tools.toolbox(random, words, scene.tools))
    scene.result(content)
    scene.call((do, _of(second, request.values) | {slot: fields[field] for slot, field in drawn.link.items()}))
    content, others = outcome.result(random, words, do)
    scene.result(content)
    answer = outcome.tell(random, words, both, Request(request.text, {**request.values, **fields}, {}), others, fields)
    if more:
        scene.call(more[0].call())
        scene.result(returned(scene))
        answer += ("" if words.language == "zh" else " ") + finished(scene, more)
    scene.say(answer)
    return scene.dialogue(tools.toolbox(random, words, scene.tools))


def _of(told: ToolWords, values: Mapping[str, Value]) -> Slots:
    """The values of this tool's own parameters, in their order."""
    return {leaf.slot: values[leaf.slot] for leaf in told.leaves() if leaf.slot in values}


def linked(random: Random, words: Words, world: object = None) -> Dialogue:
    """Two tools of the world: the second request leaves out a value, and the first result has one of its kind."""
    scene = Scene(random, words, "sequence_linked")
    first, field, second, cut, slot = pick(random, _pairs(words))
    ask, do = scene.declare(first), scene.declare(second)
    begin = tools.ask(random, words, ask)
    for _ in range(5):
        if not begin.open:
            break
        begin = tools.ask(random, words, ask)
    end = tools.ask(random, words, do, frame=cut)
    sides = words.pages["sequences"]["linked"]
    text = pick(random, sides)
    parts = _sentences(words.language, begin, end)
    if end.open and not text.endswith("{second}"):
        text = next(one for one in sides if one.endswith("{second}"))
    conditions.ask(scene, joined(text, {**parts, "field": " ".join(name_words(field))}))
    scene.call((ask, dict(begin.values)))
    if stopped(scene):
        return scene.dialogue(tools.toolbox(random, words, [ask, do]))
    content, fields = outcome.result(random, words, ask)
    scene.result(content)
    values = {**end.values, slot: fields[field]}
    return _then(scene, ask, do, values, values, fields)


def referred(random: Random, words: Words, world: object = None) -> Dialogue:
    """Two tools of the world: the second request speaks of what the first one found ("at that place", "on that day")."""
    page = words.pages["sequences"]
    scene = Scene(random, words, "sequence_linked")
    pairs = _link_pairs(words)
    first, second, links = pick(random, pairs[True] if pairs[True] and random.random() < 0.25 else pairs[False])
    first, second = _disguised(random, words, first), _disguised(random, words, second)
    ask, do = scene.declare(first), scene.declare(second)
    begin = tools.ask(random, words, ask)
    content, fields = outcome.result(random, words, ask)
    chosen = dict(links.items() if random.random() < 0.6 else [pick(random, list(links.items()))])
    told = {value.kind for value in begin.values.values()}
    refs = {slot: _reference(random, page["refs"], field, fields[field], told) for slot, field in chosen.items()}
    end = tools.ask(random, words, do, known=refs)
    touching = any(one.said + other.said in end.text for one in refs.values() for other in refs.values())
    if begin.open or touching or not set(chosen) <= set(end.values):
        return linked(random, words)
    text = pick(random, page["then"])
    parts = _sentences(words.language, begin, end)
    parts |= {"begun": parts["first"].rstrip(".?!。？！"), "end": _small(words.language, parts["second"])}
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    conditions.ask(scene, text)
    scene.call((ask, dict(begin.values)))
    if stopped(scene):
        return scene.dialogue(tools.toolbox(random, words, [ask, do]))
    scene.result(content)
    told_of = {**end.values, **{slot: fields[field] for slot, field in chosen.items()}}
    return _then(scene, ask, do, dict(end.values), told_of, fields)


def _sentences(language: str, begin: Request, end: Request) -> dict[str, str]:
    """Two requests as sentences; open text at the end stays without a mark."""
    return {"first": sentence(language, begin.text), "second": end.text if end.open else sentence(language, end.text)}


def _then(scene: Scene, ask: Tool, do: Tool, values: Slots, known: Slots, found: Slots) -> Dialogue:
    """The second call with these values and its result; the answer tells what is known by then.

    found: what the first call returned.
    """
    random, words = scene.random, scene.words
    scene.call((do, values))
    content, fields = outcome.result(random, words, do)
    scene.result(content)
    scene.say(outcome.tell(random, words, do, Request("", known, {}), fields, found))
    return scene.dialogue(tools.toolbox(random, words, [ask, do]))


def _disguised(random: Random, words: Words, told: ToolWords) -> ToolWords:
    return disguise(random, words, told) if told.recipe is None and random.random() < 0.3 else told


def _small(language: str, text: str) -> str:
    """A request inside a sentence; names and abbreviations keep their capital."""
    return (
        text[:1].lower() + text[1:] if language == "en" and text[1:2].islower() and text.split(" ")[0] in _VERBS.split() else text
    )


Linked = list[tuple[ToolWords, ToolWords, dict[str, str]]]


@cache
def _givers(words: Words) -> dict[str, dict[ToolWords, str]]:
    """By kind, the tools that return one value of it, and their field."""
    found: dict[str, dict[ToolWords, str]] = defaultdict(dict)
    for tool in words.tools:
        kinds = [kind for kind in tool.results.values() if isinstance(kind, str)]
        for field, kind in tool.results.items():
            if isinstance(kind, str) and kinds.count(kind) == 1 and (kind in _LINKS or kind in words.names):
                found[kind][tool] = field
    return found


@cache
def _link_pairs(words: Words) -> dict[bool, Linked]:
    """All tools of the world of which the second needs what the first returns, and the links; True: those of several links.

    A link: a required slot of the second -> the one field of the first result that has its kind.
    """
    pairs: Linked = []
    for second in words.tools:
        givers = {leaf.slot: _givers(words).get(leaf.kind, {}) for leaf in second.leaves() if leaf.required}
        for first in dict.fromkeys(tool for some in givers.values() for tool in some):
            links = {slot: some[first] for slot, some in givers.items() if first in some}
            if first is not second and len(set(links.values())) == len(links):
                pairs.append((first, second, links))
    return {False: pairs, True: [pair for pair in pairs if len(pair[2]) > 1]}


def _reference(random: Random, refs: Mapping[str, list[str]], field: str, value: Value, told: set[str]) -> Value:
    """How a request speaks of a value that is not known yet; dates and times keep wording from putting it into quotes.

    told: kinds of which a value was said already, so that "that place" would be that one.
    """
    plain = value.kind in told or random.random() > 0.7
    said = pick(random, refs["other"] if plain else refs.get(value.kind, refs["other"]))
    return Value(said.replace("{field}", " ".join(name_words(field))), value.given, "date")


Pair = tuple[ToolWords, str, ToolWords, Frame, str]


@cache
def _pairs(words: Words) -> list[Pair]:
    """Tools that go together: (first, its field, second, the second's request without a value, the slot of that value)."""
    found = []
    for second in words.tools:
        wanted = {leaf.slot: leaf.kind for leaf in second.leaves()}
        for cut, slot in cuts(words.language, second):
            givers = _givers(words).get(wanted[slot], {})
            found += [(first, field, second, cut, slot) for first, field in givers.items() if first is not second]
    return found


def chained(random: Random, words: Words, world: object = None) -> Dialogue:
    """Tools of the world in a chain, mostly with words for what is not known yet, else with the name of its field."""
    return referred(random, words) if random.random() < 0.7 else linked(random, words)


KINDS = {"sequence_linked": (3.0, chained), "chain": (3.0, chain)}
