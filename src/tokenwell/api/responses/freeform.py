"""Freeform tools: the model is offered a function with one text parameter, the client sees the bare text.

Owns the parameter's name and taking the text out of the arguments while they are still being written.
"""

from __future__ import annotations

import json
import re
from typing import Any

FIELD = "input"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {FIELD: {"type": "string"}},
    "required": [FIELD],
    "additionalProperties": False,
}

_OPENING = re.compile(r'\s*\{\s*"' + FIELD + r'"\s*:\s*"')
# What of a JSON string's inside is certain: characters, whole escapes, and surrogates only as pairs.
_CERTAIN = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*'
)


def wrap(text: str) -> str:
    """The arguments of a call with this text, spelled as templates print them."""
    return json.dumps({FIELD: text}, ensure_ascii=False)


class Unwrapping:
    """The text inside arguments that come in pieces. One object a call."""

    def __init__(self) -> None:
        self._arguments = ""
        self._inside = -1  # where the unread part of the text begins; -1: its opening has not come yet
        self._told = ""

    def feed(self, piece: str) -> str:
        """What is certain of the text with this piece, and was not told before."""
        self._arguments += piece
        if self._inside < 0:
            opening = _OPENING.match(self._arguments)
            if opening is None:
                return ""
            self._inside = opening.end()
        certain = _CERTAIN.match(self._arguments, self._inside)
        assert certain is not None  # the pattern matches the empty string
        self._inside = certain.end()
        text: str = json.loads(f'"{certain[0]}"', strict=False)
        self._told += text
        return text

    def finish(self) -> str:
        """The rest of the text, now that the arguments are complete. Arguments that hold no text are told as they are."""
        try:
            fields = json.loads(self._arguments, object_pairs_hook=_first_wins, strict=False)
        except (ValueError, RecursionError):
            return ""  # cut off: what was certain is all there is
        text = fields.get(FIELD) if isinstance(fields, dict) else None
        whole = text if isinstance(text, str) else self._arguments
        rest = whole.removeprefix(self._told)
        self._told += rest
        return rest

    @property
    def text(self) -> str:
        """All that was told."""
        return self._told


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which the first of equal keys counts, because the first is what was told piece by piece."""
    return dict(reversed(pairs))
