"""Why a turn of a conversation found little of the turn before it in the prefix cache: one of three reasons.

Keeps the last prompts (bounded in number and size) and finds the turn before by the messages that both have. What a client
changed is known before the engine starts; whether the engine could take up its state again, with the first output. Knows no
dialect and no engine: token ids, messages and counts.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from tokenwell.chat.conversation import Conversation, Message

_MOST_PROMPTS = 64
_MOST_BYTES = 16 * 2**20  # of texts and token ids together
_EXCERPT = 32  # characters of both sides
_INSTRUCTIONS = ("system", "developer")

Part = tuple[str, str]  # role (or "tools") and everything that a message says, as one text


@dataclass(frozen=True, slots=True)
class _Seen:
    tokens: array[int]
    parts: tuple[Part, ...]  # the tools first
    bytes: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What is known of a prompt before it is computed. `common`: leading tokens as in the turn before."""

    tokens: int
    before: int = 0  # tokens of the turn before; 0: there was none
    common: int = 0
    change: str | None = None  # where the prompts first differ, when less than half of the turn before is left

    def verdict(self, cached: int | None, kept: int = 0) -> str | None:
        """One line for log and header; None when there is nothing to tell yet.

        `cached`: tokens taken from the cache, None before the first output. `kept`: tokens whose beginning the engine still
        holds in part, more than `cached` when it cannot go on from there (sliding windows that are gone).
        """
        if cached is not None and 2 * cached >= self.before:  # also of a changed prompt, where another one was alike
            return f"reused {cached} of {self.tokens}"
        if self.change is not None:
            return f"prompt changed: {self.change}"
        if cached is None:
            return None
        if 2 * kept >= self.before:
            why = f"state not resumable: {kept} tokens are kept, but the state behind them is gone"
        else:
            why = "evicted: the turn before is no longer in the cache"
        return f"{why} (reused {cached} of {self.tokens}; the turn before had {self.before})"

    def lost(self, cached: int) -> bool:
        """Whether less than half of the turn before was reused."""
        return self.before > 0 and 2 * cached < self.before


class CacheDoctor:
    """Remembers prompts and compares each new one with the turn before it."""

    def __init__(self, most_prompts: int = _MOST_PROMPTS, most_bytes: int = _MOST_BYTES) -> None:
        self._seen: deque[_Seen] = deque()
        self._bytes = 0
        self._most_prompts = most_prompts
        self._most_bytes = most_bytes

    def examine(self, conversation: Conversation, tokens: Sequence[int]) -> Turn:
        """Compare with the turn before, and remember. `conversation` is the canonical one that `tokens` were rendered from."""
        parts = _parts(conversation)
        ids = array("I", tokens)
        before = self._before(parts)
        self._remember(_Seen(ids, parts, 4 * len(ids) + sum(len(text) for _, text in parts)))
        if before is None:
            return Turn(len(ids))
        common = _common(before.tokens, ids)
        change = difference(before.parts, parts) if 2 * common < len(before.tokens) else None
        return Turn(len(ids), len(before.tokens), common, change)

    def _before(self, parts: tuple[Part, ...]) -> _Seen | None:
        """The remembered prompt that most messages are shared with, the latest of equals; None when it is another conversation.

        Instructions do not count: many conversations share them, and one may have them changed. One message alone counts only
        where both begin with it: agents ask for a title beside the first turn, with the user's words in another question.
        """
        said = _said(parts)
        mine = Counter(said)
        best, most = None, 0
        for seen in reversed(self._seen):
            before = _said(seen.parts)
            shared = (mine & Counter(before)).total()
            if shared > most and 2 * shared >= len(before) and (shared > 1 or said[0] == before[0]):
                best, most = seen, shared
        return best

    def _remember(self, seen: _Seen) -> None:
        self._seen.append(seen)
        self._bytes += seen.bytes
        while self._seen and (len(self._seen) > self._most_prompts or self._bytes > self._most_bytes):
            self._bytes -= self._seen.popleft().bytes


def _parts(conversation: Conversation) -> tuple[Part, ...]:
    tools = json.dumps(conversation.tools, ensure_ascii=False) if conversation.tools else ""
    return (("tools", tools), *((message.role, _text(message)) for message in conversation.messages))


def _said(parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if part[0] not in ("tools", *_INSTRUCTIONS)]


def _text(message: Message) -> str:
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    return "\n".join([*filter(None, [message.reasoning, message.content]), *calls])


def _common(left: array[int], right: array[int]) -> int:
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def difference(before: Sequence[Part], now: Sequence[Part]) -> str:
    """Where two prompts first differ: message, role, character, and a little of both sides."""
    for place, (old, new) in enumerate(zip(before, now, strict=False)):
        if old == new:
            continue
        where = "the tools" if place == 0 else f"message {place - 1} ({new[0]})"
        if old[0] != new[0]:
            return f"{where} was a message of {old[0]}"
        start = next((at for at, (a, b) in enumerate(zip(old[1], new[1], strict=False)) if a != b), min(len(old[1]), len(new[1])))
        return f"{where}, character {start}: {_excerpt(old[1], start)} became {_excerpt(new[1], start)}"
    if len(now) < len(before):
        return f"message {len(now) - 1} ({before[len(now)][0]}) and what follows are gone"
    return "the messages begin alike, but the chat template renders them otherwise (a date, or its arguments)"


def _excerpt(text: str, start: int) -> str:
    begin = max(0, start - _EXCERPT // 4)
    shown = text[begin : start + _EXCERPT]
    return json.dumps(f"{'…' if begin else ''}{shown}{'…' if start + _EXCERPT < len(text) else ''}")
