"""Held-out tasks of several calls: what the second call needs stands in the first result, or the user goes on asking."""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from tokenwell.readiness.task import Call, Turn
from tokenwell.readiness.task import Words as Groups
from training import kinds, tools
from training.clock import BARE_DAYS
from training.invent import namesake
from training.kinds import Value
from training.pseudo import pick
from training.spelling import STYLES
from training.tools import Tool
from training.wording import wording
from training.world import Frame, ToolWords, Words, frame

_OTHERS = (0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14)  # tried; some are drawn twice
CHAINS, FOLLOWING, SIDE_BY_SIDE, FAILING = 6, 4, 1, 2  # of each language
Draft = tuple[str, tuple[Turn, ...], list[dict[str, Any]]]


def drafts(random: Random, words: Words) -> Iterator[Draft]:
    """All tasks of one language: category, turns, declarations."""
    entries = random.sample(words.pages["field"]["chain"], CHAINS)
    for entry in entries:
        yield "result into call", *chained(random, words, entry)
    for count in range(FOLLOWING):
        yield "several requests", *following(random, words, 2 + count % 2)
    for _ in range(SIDE_BY_SIDE):
        yield "two tools at once", *side_by_side(random, words)
    for _ in range(FAILING):
        yield "error", *failing(random, words)


def chained(random: Random, words: Words, entry: Mapping[str, Any]) -> tuple[tuple[Turn, ...], list[dict[str, Any]]]:
    """One request, two calls: the second takes values from the first result."""
    first, second = (_declared(random, words, key) for key in entry["steps"])
    content, fields = tools.result(random, words, first)
    linked = {slot: fields[name] for slot, name in entry["link"].items()}
    request = frame(pick(random, entry["requests"]))
    leaves = {leaf.slot: leaf for tool in (second, first) for leaf in tool.words.leaves()}
    values = {slot: kinds.draw(random, words, leaves[slot].kind, leaves[slot]) for slot in request[1::2]}
    text, _ = wording(random, words, [values[piece] if place % 2 else piece for place, piece in enumerate(request)])
    other, more = tools.result(random, words, second)
    known = {**values, **fields, **more}
    answer = _told(frame(entry["answer"]), known)
    slots = {leaf.slot for leaf in first.words.leaves()}
    rounds = (
        (Call(first.name, first.arguments({slot: value for slot, value in values.items() if slot in slots}), content),),
        (Call(second.name, second.arguments({**_own(second, values, slots), **linked}), other),),
    )
    turn = Turn(text, rounds, answer, tuple((known[name].said,) for name in entry["says"]))
    return (turn,), beside(random, words, [first, second])


def following(random: Random, words: Words, count: int) -> tuple[tuple[Turn, ...], list[dict[str, Any]]]:
    """Several requests over the same declarations, one after the other is served."""
    declared = [tools.declare(random, words, told) for told in random.sample(words.tools, count)]
    return tuple(_served(random, words, tool) for tool in declared), beside(random, words, declared)


def side_by_side(random: Random, words: Words) -> tuple[tuple[Turn, ...], list[dict[str, Any]]]:
    """The same question about two things: two calls in one turn."""
    key, slot = pick(random, (("smog_reading", "city"), ("piste_report", "resort")))
    tool = _declared(random, words, key)
    leaf = next(leaf for leaf in tool.words.leaves() if leaf.slot == slot)
    both = kinds.draw(random, words, f"list:{leaf.kind}")
    while len(both.given) != 2:
        both = kinds.draw(random, words, f"list:{leaf.kind}")
    request = tools.ask(random, words, tool, known={slot: Value(both.said, both.said, leaf.kind)})
    calls, facts = [], []
    for given in both.given:
        content, fields = tools.result(random, words, tool)
        calls.append(Call(tool.name, tool.arguments({slot: Value(given, given, leaf.kind)}), content))
        facts.append((given, next(iter(fields.values())).said))
    zh = words.language == "zh"
    answer = ("；" if zh else "; ").join(f"{given}{'：' if zh else ': '}{fact}" for given, fact in facts) + ("。" if zh else ".")
    says = tuple((fact,) for _, fact in facts)
    return (Turn(request.text, (tuple(calls),), answer, says),), beside(random, words, [tool])


def failing(random: Random, words: Words) -> tuple[tuple[Turn, ...], list[dict[str, Any]]]:
    """A call that fails: nothing else is tried, and the user is told."""
    tool = tools.declare(random, words, pick(random, words.tools))
    request = tools.ask(random, words, tool)
    content, answer = tools.failure(random, words, tool, request)
    turn = Turn(
        tools.polish(random, words, request),
        ((Call(tool.name, request.arguments, content, _loose(request.values, tool)),),),
        answer,
    )
    return (turn,), beside(random, words, [tool])


def beside(random: Random, words: Words, chosen: Sequence[Tool], avoid: Sequence[ToolWords] = ()) -> list[dict[str, Any]]:
    """Declarations of the chosen tools among 0 to 11 others: neighbours, any others, and some that differ in their verb only."""
    found = list(chosen)
    names = {tool.name for tool in chosen}
    keys = {tool.words.key for tool in chosen} | {told.key for told in avoid}
    near = [told for tool in chosen for told in words.domains[tool.words.domain]]
    style = pick(random, STYLES) if random.random() < 0.6 else None
    for _ in range(min(pick(random, _OTHERS), 12 - len(chosen))):
        source = random.random()
        other = namesake(random, words, pick(random, chosen), style) if source < 0.15 else None
        told = pick(random, near if source < 0.6 else words.tools)
        if other is None and told.key not in keys:
            keys.add(told.key)
            other = tools.declare(random, words, told, style)
        if other is not None and other.name not in names:
            names.add(other.name)
            found.append(other)
    random.shuffle(found)
    return [tool.declaration for tool in found]


def _served(random: Random, words: Words, tool: Tool) -> Turn:
    request = tools.ask(random, words, tool)
    content, fields = tools.result(random, words, tool, request)
    answer = tools.answer(random, words, tool, request, fields)
    # A question has one fact for an answer; what an order returns need not be told.
    asked = len(fields) == 1 and all(set(fields) & set(text[1::2]) for text in tool.words.answers)
    says = ((next(iter(fields.values())).said,),) if asked else ()
    call = Call(tool.name, request.arguments, content, _loose(request.values, tool))
    return Turn(tools.polish(random, words, request), ((call,),), answer, says)


def _told(sentence: Frame, known: Mapping[str, Value]) -> str:
    text = ""
    for place, piece in enumerate(sentence):
        said = known[piece].said if place % 2 else piece
        text = text.removesuffix("on ") + said if said in BARE_DAYS else text + said
    return text


def _loose(values: Mapping[str, Value], tool: Tool) -> dict[str, Groups]:
    """Free text may be put in other words around what was said."""
    return {tool.spelled[slot]: ((value.said,),) for slot, value in values.items() if value.free}


def _own(tool: Tool, values: Mapping[str, Value], taken: set[str]) -> dict[str, Value]:
    slots = {leaf.slot for leaf in tool.words.leaves()}
    return {slot: value for slot, value in values.items() if slot in slots and slot not in taken}


def _declared(random: Random, words: Words, key: str) -> Tool:
    return tools.declare(random, words, next(told for told in words.tools if told.key == key))
