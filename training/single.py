"""Dialogues in which every request is served by calls of one turn: one call, or several at once."""

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from training import kinds, outcome, tools
from training.details import called, revalued
from training.dialogue import Dialogue, assistant, calls, results, system, user
from training.disguise import disguise
from training.headed import headed
from training.invent import invent
from training.kinds import Value
from training.prompts import system_prompt
from training.pseudo import pick
from training.spelling import STYLES
from training.tools import Request, Tool
from training.wording import END, uncapital, wording
from training.world import ToolWords, Words

# Kinds that a value alone shows.
_ANSWERABLE = ("id", "path", "file", "folder", "url", "email", "phone", "date", "time")
_BORDERS = frozenset("\"'`“”‘’「」『』")
_VAGUE = re.compile(
    r"\b(?:another|other|some|somebody|someone|something|somewhere|that|this|these|those|it|they|them|she|he)\b"
    "|某|另|别的|别人|有人|谁|几|[这那][个条台张款件场位家份本间辆只]|这(?!次)|[一有][个条台张位份句件扇间辆只]"
    r"|\b(?:rename|move|replace|swap|change|transfer|turn)\b|移|挪|换|转|改"  # what to, has to be said
)
_COMMAS = frozenset(",;/，、；")
NATURAL = 0.75  # the share of dialogues in which no tool that is asked for is invented or in disguise
HEADED = 0.08  # the share of natural tools with a noun behind one of their names
LOOSENED = 0.15  # the share of natural tools that do not require one of their required parameters
ERRORS = 0.06  # the share of calls that fail


def single(random: Random, words: Words) -> Dialogue:
    """One to five requests over the same declarations, each: a call, its result, a short answer."""
    chosen = _draw(random, words, pick(random, (1, 1, 2, 2, 3, 3, 4)))
    messages = begin(random, words)
    turns = pick(random, (1, 2, 3, 4, 5, 5))
    request: Request | None = None
    tool = chosen[0]
    for turn in range(turns):
        more = again(random, words, tool, request) if request is not None and random.random() < 0.15 else None
        if more is None:
            tool = chosen[turn % len(chosen)]
            request = tools.ask(random, words, tool)
            messages.append(user(tools.polish(random, words, request)))
        else:
            request = more
            messages.append(user(request.text))
        serve(random, words, messages, [(tool, request)], last=turn == turns - 1)
    return Dialogue(messages, tools.toolbox(random, words, chosen), words.language, "single")


def again(random: Random, words: Words, tool: Tool, before: Request) -> Request | None:
    """ "And in Porto?": the same request with one other value; None where it would not be clear which one."""
    leaves = [leaf for leaf in tool.words.leaves() if leaf.slot in before.values]
    fitting = [leaf for leaf in leaves if leaf.kind in words.names or leaf.kind in _ANSWERABLE]
    if not fitting or "again" not in words.frames:
        return None
    leaf = pick(random, fitting)
    frames = words.frames["again"]
    groups = [kinds.alike(words, one.kind) for one in leaves]
    if groups.count(kinds.alike(words, leaf.kind)) > 1:  # two names: only its own name tells which one is meant
        named = called(words.language, leaf, tool.spelled[leaf.slot])
        frames = [frame.replace("{p}", named) for frame in words.frames.get("again_named", ()) if named]
    value = kinds.draw(random, words, leaf.kind, leaf)
    if not frames or value.given == before.values[leaf.slot].given:
        return None
    values = {**before.values, leaf.slot: value}
    text, _ = wording(random, words, list(_around(pick(random, frames), value)))
    return Request(text, values, tool.arguments(values))


def _around(text: str, value: Value) -> tuple[str, Value, str]:
    before, after = text.split("{}")
    return before, value, after


def parallel(random: Random, words: Words) -> Dialogue:
    """One or two requests that each want several calls at once: of the same tool, or of different ones."""
    chosen = _draw(random, words, pick(random, (1, 2, 2, 3)))
    if len(chosen) == 1 and not any(leaf.required and leaf.kind not in ("flag", "enum") for leaf in chosen[0].words.leaves()):
        chosen += [tool for tool in _draw(random, words, 2) if tool.name != chosen[0].name]  # it cannot be called in two ways
    messages = begin(random, words)
    turns = pick(random, (1, 1, 2))
    for turn in range(turns):
        wanted = chosen * pick(random, (2, 2, 2, 3, 3, 4)) if len(chosen) == 1 else list(chosen)
        random.shuffle(wanted)
        text, asked = together(random, words, wanted)
        messages.append(user(text))
        serve(random, words, messages, asked, last=turn == turns - 1)
        if turn < turns - 1 and random.random() < 0.5:
            request = tools.ask(random, words, chosen[0])
            messages.append(user(tools.polish(random, words, request)))
            serve(random, words, messages, [(chosen[0], request)], last=False)
    return Dialogue(messages, tools.toolbox(random, words, chosen), words.language, "parallel")


def draw_tools(random: Random, words: Words, count: int) -> list[ToolWords]:
    """Different tools: all natural, or some or all of them in disguise or invented."""
    found: dict[str, ToolWords] = {}
    disguised, share = pick(random, (0.2, 0.6, 1.0)), pick(random, (0.0, 1.0, 0.5))
    if random.random() < NATURAL:
        disguised = share = 0.0
    if not words.tools:
        share = 1.0
    elif "invented" not in words.frames:
        share = 0.0
    while len(found) < count:
        tool = invent(random, words) if random.random() < share else pick(random, words.tools)
        if tool.incomplete and random.random() < LOOSENED:
            tool = loosened(random, tool)
        if tool.recipe is None and random.random() < HEADED:
            tool = headed(random, words, tool)
        tool = revalued(random, tool)
        if tool.recipe is None and random.random() < disguised:
            tool = disguise(random, words, tool)
        found.setdefault(tool.key, tool)
    return list(found.values())


def loosened(random: Random, tool: ToolWords) -> ToolWords:
    """The tool with one required parameter optional: the request that leaves it out is served, not answered by a question."""
    # "Move it to another day" wants to be asked which, whatever the declaration says.
    plain = [request for request in tool.incomplete if not any(_VAGUE.search(literal) for literal in request[::2])]
    if not plain:
        return tool
    short = pick(random, plain)
    required = {parameter.slot for parameter in tool.parameters if parameter.required}
    left_out = required - set(short[1::2])
    if len(left_out) != 1 or any(parameter.kind == "object" for parameter in tool.parameters):
        return tool
    (slot,) = left_out
    lacking = [request for request in plain if slot not in request[1::2]]
    return replace(
        tool,
        incomplete=(),
        requests=(*tool.requests, *(pick(random, lacking) for _ in tool.requests)),
        parameters=tuple(replace(one, required=one.required and one.slot != slot) for one in tool.parameters),
    )


def _draw(random: Random, words: Words, count: int) -> list[Tool]:
    style = pick(random, STYLES) if random.random() < 0.7 else None
    found: dict[str, Tool] = {}
    for tool in draw_tools(random, words, count):
        declared = tools.declare(random, words, tool, style)
        found.setdefault(declared.name, declared)
    return list(found.values())


def begin(random: Random, words: Words) -> list[dict[str, Any]]:
    text = system_prompt(random, words)
    return [] if text is None else [system(text)]


def serve(
    random: Random,
    words: Words,
    messages: list[dict[str, Any]],
    asked: Sequence[tuple[Tool, Request]],
    last: bool,
    errors: float = ERRORS,
) -> None:
    """The calls; then, unless the dialogue ends here, their results and the answer. errors: the share of calls that fail."""
    message = calls(messages, [(tool.name, request.arguments) for tool, request in asked])
    messages.append(message)
    if last and random.random() < 0.3:
        return
    contents, answers = [], []
    for tool, request in asked:
        if random.random() < errors:
            content, answer = outcome.failure(random, words, tool, request)
        else:
            content, fields = outcome.result(random, words, tool)
            answer = outcome.tell(random, words, tool, request, fields)
        contents.append(content)
        if answer not in answers:
            answers.append(answer)
    messages += results(message, contents)
    messages.append(assistant(("" if words.language == "zh" else " ").join(answers)))


def together(random: Random, words: Words, wanted: list[Tool]) -> tuple[str, list[tuple[Tool, Request]]]:
    """Several requests in one message."""
    frames = words.frames["together"]
    same = len({tool.name for tool in wanted}) == 1
    if same:
        made = _repeated(random, words, wanted)
        if made is not None:
            return made
    asked: list[tuple[Tool, Request]] = []
    for tool in wanted:
        request = tools.ask(random, words, tool, optional=random.random() * 0.6)
        for _ in range(5):
            if all((tool.name, request.arguments) != (other.name, before.arguments) for other, before in asked):
                break
            request = tools.ask(random, words, tool, optional=random.random() * 0.6)
        asked.append((tool, request))
    # Free text without quotes ends its sentence, so the next request begins a line or a sentence of its own.
    texts = [request.text.rstrip(END) for _, request in asked]
    lowered = [_lowered(words, tool, text) for (tool, _), text in zip(asked, texts, strict=True)]
    shape = random.random()
    # A name behind a comma would be one more of those before it.
    named = any(request.text.startswith(value.said) for _, request in asked[1:] for value in request.values.values())
    if named or any(request.open for _, request in asked[:-1]) or shape < 0.3:
        start, joint, end = pick(random, frames["lists"])
    else:
        start, joint, end = pick(random, frames["joints"])
    numbered = "{n}" in joint + start
    text = start.replace("{n}", "1") + texts[0]
    for place, more in enumerate(texts[1:], 2):
        link = joint.replace("{n}", str(place))
        text += link + (more if link[-1] in " \n" and (numbered or link[-2:-1] in "。.;\n-") else lowered[place - 1])
    return text + end, asked


def _lowered(words: Words, tool: Tool, text: str) -> str:
    """A request as it goes on after a comma; one for an invented tool never begins with a name."""
    if words.language == "en" and tool.words.recipe is not None and text.partition(" ")[0] not in ("I", "I'd"):
        return text[:1].lower() + text[1:]
    return uncapital(words, text)


def _repeated(random: Random, words: Words, wanted: list[Tool]) -> tuple[str, list[tuple[Tool, Request]]] | None:
    """One request whose one slot has several values: the weather in A, B and C."""
    tool = wanted[0]
    slots = [leaf for leaf in tool.words.leaves() if leaf.required and leaf.kind not in ("flag", "enum") and ":" not in leaf.kind]
    slots = [leaf for leaf in slots if leaf.kind not in words.texts and leaf.kind not in ("object", "code", "moment", "duration")]
    slots = [leaf for leaf in slots if kinds.alike(words, leaf.kind) not in ("number", "day")]  # "for 11 and 12 years" is a range
    if not slots:
        return None
    slot = pick(random, slots)
    first = tools.ask(random, words, tool, optional=0.3)
    given = [first.values[slot.slot]]
    for _ in range(12):
        value = kinds.draw(random, words, slot.kind, slot)
        if value.given not in [one.given for one in given] and value.said not in first.text and not kinds.listed(value.said):
            given.append(value)
        if len(given) == len(wanted):
            break
    said = given[0].said
    before, _, after = first.text.partition(said)
    # In quotes it would be one value, between commas nobody could tell where the list ends.
    if before[-1:] in _BORDERS or before.rstrip()[-1:] in _COMMAS or after[:1] in _COMMAS:
        return None
    if first.text.count(said) != 1 or kinds.listed(said) or len(given) < 2:
        return None
    text = first.text.replace(said, kinds.join(random, words.language, [value.said for value in given]))
    asked = []
    for value in given:
        values = {**first.values, slot.slot: value}
        asked.append((tool, Request(first.text, values, tool.arguments(values))))
    return tools.polish(random, words, replace(first, text=text)), asked
