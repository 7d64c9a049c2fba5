"""`encrypted_content` of reasoning items: the thought itself, so that a client that stores nothing can replay it exactly.

It is encoded, not encrypted: the client has the thought in plain words beside it. What other services sealed is not ours to read.
"""

from __future__ import annotations

import base64
import binascii

_MARK = "tokenwell1."
_MOST_CHARACTERS = 16 * 2**20  # no window holds a thought of this length


def seal(thought: str) -> str:
    """The thought as a client keeps it."""
    return _MARK + base64.b64encode(thought.encode()).decode()


def unseal(sealed: str | None) -> str | None:
    """The thought; None for what `seal` did not make."""
    if sealed is None or not sealed.startswith(_MARK) or len(sealed) > _MOST_CHARACTERS:
        return None
    try:
        return base64.b64decode(sealed[len(_MARK) :], validate=True).decode()
    except (binascii.Error, ValueError):
        return None
