"""Blanks between Chinese and Latin: some people type them and some do not, so the model has to know both."""

import re
from collections.abc import Iterator
from dataclasses import replace

from training.dialogue import Dialogue
from training.leaves import strings

_HAN = "\u4e00-\u9fff"
_BORDER = re.compile(rf"(?<=[{_HAN}])(?=[A-Za-z0-9~/#+])|(?<=[A-Za-z0-9/%])(?=[{_HAN}])")
_MARK = re.compile(r"^(?:[-*]|\d+\.)? ?(?:\[[ x]\] )?")  # of an entry of a list


def spaced(dialogue: Dialogue) -> Dialogue:
    """The dialogue with a blank wherever Chinese and Latin meet in what the user says; values of calls stay as they are."""
    values = sorted({text for text in _values(dialogue) if len(text) > 1}, key=len, reverse=True)
    whole = re.compile("|".join(map(re.escape, values)) or "$^", re.IGNORECASE)
    messages = []
    for message in dialogue.messages:
        if message["role"] == "user":
            text = message["content"]
            kept = [found.span() for found in whole.finditer(text)]
            places = [
                found.start() for found in _BORDER.finditer(text) if not any(start < found.start() < end for start, end in kept)
            ]
            for place in reversed(places):
                text = f"{text[:place]} {text[place:]}"
            message = {**message, "content": text}
        messages.append(message)
    return replace(dialogue, messages=messages)


def _values(dialogue: Dialogue) -> Iterator[str]:
    """Every text in the arguments of the calls; of a whole file, its lines without their marks and what stands behind a colon."""
    for message in dialogue.messages:
        for call in message.get("tool_calls", ()):
            for text in strings(call["function"]["arguments"]):
                yield text
                for line in text.split("\n") if "\n" in text else ():
                    yield _MARK.sub("", line)
                    yield line.partition(": ")[2]
