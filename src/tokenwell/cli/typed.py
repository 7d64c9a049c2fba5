"""Reads what a person types on the terminal: messages of one line or several."""

from __future__ import annotations

import select
import sys

PROMPT, MORE = "> ", ". "
_QUOTES = '"""'


def typed_message(prompt: str = PROMPT) -> str:
    """One message: a line; lines that end in \\ and the next one; what was pasted; or all between two \"\"\".

    Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C.
    """
    text = input(prompt)
    if text.lstrip().startswith(_QUOTES):
        return _quoted(text.lstrip().removeprefix(_QUOTES))
    while True:
        if text.endswith("\\"):
            text = f"{text[:-1]}\n{input(MORE)}"
        elif not _more_is_waiting():
            return text
        else:
            try:
                text = f"{text}\n{input()}"
            except EOFError:  # Ctrl-D came with the message: it is of the next one
                return text


def _quoted(text: str) -> str:
    while not text.rstrip().endswith(_QUOTES):
        text = f"{text}\n{input(MORE)}"
    return text.rstrip().removesuffix(_QUOTES).strip("\n")


def _more_is_waiting() -> bool:
    """Whether more lines are there already: nobody types so fast, so they were pasted."""
    ready, _, _ = select.select([sys.stdin], [], [], 0.02)
    return bool(ready)
