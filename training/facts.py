"""What a result of a tool says: its fields as the tool prints them, and as a short sentence."""

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from training.pseudo import pick
from training.spelling import capital, name_words, restyle
from training.world import Words


def printed(random: Random, fields: Mapping[str, Any]) -> str:
    """A result's fields as JSON or as lines of text."""
    if not fields:
        return pick(random, ("ok", "done", "OK", '{"ok": true}', '{"status": "success"}', "true", "success", '{"success":true}'))
    style, shape = pick(random, ("snake", "snake", "camel")), random.random()
    named = {restyle(name, style): value for name, value in fields.items()}
    if shape < 0.15:
        return pick(random, ("\n", "\n", ", ", "; ")).join(f"{name}: {value}" for name, value in named.items())
    if shape < 0.3:
        named = {pick(random, ("status", "ok", "success")): True, **named} if shape < 0.22 else {"status": "ok", **named}
    body: dict[str, Any] = {pick(random, ("result", "data", "response")): named} if shape > 0.9 else named
    if random.random() < 0.25:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(body, ensure_ascii=False)


def said(words: Words, given: Any) -> str:
    """A field's value in a sentence."""
    if isinstance(given, list):
        return ("、" if words.language == "zh" else ", ").join(str(item) for item in given)
    return str(given)


def sentence(words: Words, facts: Sequence[tuple[str, str]], start: str = "") -> str:
    """ "The code is 7 and the date is Friday.": what things are called, and what they are; "Done." when there are none."""
    if not facts:
        return str(words.frames["done"][0])
    answers: Mapping[str, Any] = words.frames["invented"]["answers"]
    parts = [answers["fact"].replace("{p}", name).replace("{}", value) for name, value in facts]
    text = parts[0] if len(parts) == 1 else answers["comma"].join(parts[:-1]) + answers["and"] + parts[-1]
    text = start + text
    if words.language != "zh":  # a field keeps the letters that it has in the result
        text = capital(text)
    return f"{text}{answers['end']}"


def named(field: str) -> str:
    """A field by the words of its name."""
    return " ".join(name_words(field)) or field
