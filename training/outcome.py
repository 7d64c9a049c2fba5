"""What a tool returns and what the assistant says of it: results, answers, failures."""

import json
from collections.abc import Iterable, Mapping
from random import Random
from types import MappingProxyType

from training import facts, kinds
from training.clock import BARE_DAYS
from training.kinds import Value
from training.pseudo import pick
from training.tools import Request, Tool
from training.wording import END, beside
from training.world import Words

_REPORTED = 0.6  # the share of answers that say what the results say, whatever the tool is


def result(random: Random, words: Words, tool: Tool) -> tuple[str, dict[str, Value]]:
    """What the tool returns (text), and its fields by their names in the words."""
    fields = {}
    for name, kind in tool.words.results.items():
        if isinstance(kind, str):
            value = kinds.draw(random, words, kind)
        else:
            text = pick(random, kind)
            value = Value(text, text, "word")
        fields[name] = Value(facts.said(words, value.given), value.given, value.kind)
    return facts.printed(random, {name: value.given for name, value in fields.items()}), fields


def answer(random: Random, words: Words, tool: Tool, request: Request, fields: Mapping[str, Value]) -> str:
    """The assistant's short answer after a result: the tool's first answer whose slots are all there, or what the result says."""
    at_hand = {**request.values, **fields}
    fitting = next((one for one in tool.words.answers if all(slot in at_hand for slot in one[1::2])), None)
    if fitting is None:
        return _reported(words, fields.items())
    pieces = list(fitting)
    for place in range(1, len(pieces), 2):
        said = at_hand[pieces[place]].said
        if said in BARE_DAYS and pieces[place - 1].endswith(" on "):
            pieces[place - 1] = pieces[place - 1][:-3]
        pieces[place] = said
    text = ""
    for piece in pieces:
        # A value may say its percent itself.
        text = beside(text, piece[1:] if text.endswith("%") and piece[:1] == "%" else piece, words.language == "zh")
    return text


def tell(
    random: Random,
    words: Words,
    tool: Tool,
    request: Request,
    fields: Mapping[str, Value],
    before: Mapping[str, Value] = MappingProxyType({}),
) -> str:
    """As `answer`, but mostly what the results say: how a tool that was never seen would put it, nobody can know.

    before: what an earlier result of the same request said.
    """
    if random.random() < _REPORTED:
        return _reported(words, (*before.items(), *fields.items()))
    return answer(random, words, tool, request, fields)


def _reported(words: Words, fields: Iterable[tuple[str, Value]]) -> str:
    return facts.sentence(words, [(facts.named(name), value.said) for name, value in fields if value.said != "true"])


def failure(random: Random, words: Words, tool: Tool, request: Request) -> tuple[str, str]:
    """An error result, and the assistant's answer that repeats its words."""
    fitting = [one for one in tool.words.errors if all(slot in request.values for slot in one[1::2])]
    if fitting:
        pieces = list(pick(random, fitting))
        for place in range(1, len(pieces), 2):
            pieces[place] = request.values[pieces[place]].said
        reason = "".join(pieces)
    else:
        reason = pick(random, words.frames["errors"])
    shape = random.random()
    if shape < 0.5:
        text = json.dumps({"error": reason}, ensure_ascii=False)
    elif shape < 0.7:
        text = json.dumps({"status": "error", "message": reason}, ensure_ascii=False)
    else:
        text = pick(random, ("Error: ", "error: ", "ERROR ")) + reason
    return text, words.frames["failed"][0].replace("{error}", reason.rstrip(END))
