"""Held-out tasks of several calls: what the second call needs stands in the first result, or the user goes on asking."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from tokenwell.readiness.task import Call, Turn
from tokenwell.readiness.task import Words as Groups
from training import facts, kinds, outcome, tools
from training.clock import BARE_DAYS
from training.invent import namesake
from training.kinds import Value
from training.pseudo import pick
from training.spelling import STYLES
from training.tools import Request, Tool
from training.wording import wording
from training.world import Frame, ToolWords, Words, frame

_OTHERS = (0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14)  # tried; some are drawn twice
CHAINS, FOLLOWING, SIDE_BY_SIDE, FAILING = 6, 4, 1, 2  # of each language
_SHORTEST = 5  # letters of an invented name
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
    content, fields = _result(random, words, first, {})
    linked = {slot: fields[name] for slot, name in entry["link"].items()}
    request = frame(pick(random, entry["requests"]))
    leaves = {leaf.slot: leaf for tool in (second, first) for leaf in tool.words.leaves()}
    values = {slot: kinds.draw(random, words, leaves[slot].kind, leaves[slot]) for slot in request[1::2]}
    text, _ = wording(random, words, [values[piece] if place % 2 else piece for place, piece in enumerate(request)])
    other, more = _result(random, words, second, values)
    known = {**values, **fields, **more}
    answer = _told(frame(entry["answer"]), known)
    slots = {leaf.slot for leaf in first.words.leaves()}
    # What is said for the second call may be given to the first as well: a dish for two, two portions of it.
    shared = {slot: values[source] for slot, source in entry.get("spare", {}).items()}
    own = {slot: value for slot, value in values.items() if slot in slots}
    rounds = (
        (Call(first.name, first.arguments({**own, **shared}), content, spare=tuple(first.spelled[slot] for slot in shared)),),
        (Call(second.name, second.arguments({**_own(second, values, slots), **linked}), other),),
    )
    turn = Turn(text, rounds, answer, tuple(_facts(known, name) for name in entry["says"]))
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
    request = tools.ask(random, words, tool, known={slot: both})
    calls, facts = [], []
    for given in both.given:
        content, fields = _result(random, words, tool, {})
        calls.append(Call(tool.name, tool.arguments({slot: Value(given, given, leaf.kind)}), content))
        facts.append((given, next(iter(fields.values())).said))
    zh = words.language == "zh"
    answer = ("；" if zh else "; ").join(f"{given}{'：' if zh else ': '}{fact}" for given, fact in facts) + ("。" if zh else ".")
    says = tuple((fact,) for _, fact in facts)
    return (Turn(request.text, (tuple(calls),), answer, says),), beside(random, words, [tool])


def failing(random: Random, words: Words) -> tuple[tuple[Turn, ...], list[dict[str, Any]]]:
    """A call that fails: nothing else is tried, and the user is told."""
    tool = tools.declare(random, words, pick(random, words.tools))
    request = ask(random, words, tool)
    content, answer = outcome.failure(random, words, tool, request)
    turn = Turn(
        tools.polish(random, words, request),
        ((Call(tool.name, request.arguments, content, _loose(request.values, tool)),),),
        answer,
        (_failed(words, request, tool, answer),),
    )
    return (turn,), beside(random, words, [tool])


def ask(random: Random, words: Words, tool: Tool, wanted: Frame | None = None) -> Request:
    """A request in which no invented name is so short that somebody may know it."""
    while True:
        request = tools.ask(random, words, tool, frame=wanted)
        if not any(_short(words, value) for value in request.values.values()):
            return request


def _short(words: Words, value: Value) -> bool:
    names = words.names.get(value.kind.removeprefix("list:"), ())
    given = value.given if isinstance(value.given, list) else [value.given]
    return bool(names) and any(len(name) < _SHORTEST and name.isascii() and name not in names for name in given)


def _failed(words: Words, request: Request, tool: Tool, answer: str) -> tuple[str, ...]:
    """What tells that a call has failed: words for it, the reason, and those of its words that nothing but the error has."""
    before, after = words.frames["failed"][0].split("{error}")
    reason = answer.removeprefix(before).removesuffix(after)
    known = f"{request.text} {json.dumps(tool.declaration)}".casefold()
    own = [word for word in re.findall(r"[a-z]{5,}", reason.casefold()) if word not in known]
    return (*words.pages["field"]["error"]["says"], reason, *own)


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
    request = ask(random, words, tool)
    content, fields = _result(random, words, tool, request.values)
    answer = outcome.answer(random, words, tool, request, fields)
    fact = words.pages["field"]["facts"].get(tool.words.key)  # what an order returns need not be told
    says = _says(fields, fact) if fact else ()
    call = Call(tool.name, request.arguments, content, _loose(request.values, tool))
    return Turn(tools.polish(random, words, request), ((call,),), answer, says)


def _says(fields: Mapping[str, Value], fact: str) -> Groups:
    """What the answer to a question has to say; of several things each, in any order."""
    facts = _facts(fields, fact)
    return (facts,) if len(facts) > 1 else tuple((part,) for part in re.split(" and |和", facts[0]))


def _facts(known: Mapping[str, Value], names: str) -> tuple[str, ...]:
    """What may be said of a result: "hall|date"."""
    return tuple(known[name].said for name in names.split("|"))


def _result(random: Random, words: Words, tool: Tool, values: Mapping[str, Value]) -> tuple[str, dict[str, Value]]:
    """What the tool returns, and its fields; what everybody can work out is right."""
    content, fields = outcome.result(random, words, tool)
    while any(_short(words, value) for value in fields.values()):
        content, fields = outcome.result(random, words, tool)
    name, figure = _figure(random, tool.words.key, {slot: value.given for slot, value in values.items()})
    if figure is None:
        return content, fields
    fields[name] = Value(str(figure), figure, "amount")
    return facts.printed(random, {name: value.given for name, value in fields.items()}), fields


def _figure(random: Random, key: str, given: Mapping[str, Any]) -> tuple[str, float | int | None]:
    """A field of a result that follows from the request."""
    if key == "share_the_bill" and "total" in given:
        return "share", round(given["total"] * (1 + given.get("tip", 0) / 100) / given["people"], 2)
    if key == "mortgage_instalment" and "amount" in given:
        rate, months = given["rate"] / 1200, given["years"] * 12
        return "monthly", round(given["amount"] * rate / (1 - (1 + rate) ** -months), 2)
    if key == "calories_of_plate" and "portions" in given:
        return "kcal", given["portions"] * 10 * random.randint(18, 65)
    return "", None


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
