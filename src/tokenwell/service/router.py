"""Which replica takes a prompt: the one whose prefix cache holds most of it, unless that one is much busier than another.

Pure: knows token ids, the tokens that each replica has to do, and what was sent where. No engine is asked: what a replica has
computed is nearly what was sent to it, and a wrong guess costs a prefill, nothing else.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

BLOCK_TOKENS = 32  # prefixes are compared in steps of so many tokens
MOST_BLOCKS = 65_536  # remembered for each replica: two million tokens, less than ten megabytes
MARGIN_TOKENS = 8192  # how much busier than the least busy replica one may be, beyond the tokens that its cache saves


class Router:
    """Remembers for every replica the blocks of the prompts that it was sent, the latest `most_blocks` of them."""

    def __init__(self, margin_tokens: int = MARGIN_TOKENS, most_blocks: int = MOST_BLOCKS) -> None:
        self._margin_tokens = margin_tokens
        self._most_blocks = most_blocks
        self._sent: dict[int, OrderedDict[int, None]] = {}
        self._turns: dict[int, int] = {}  # when each was last chosen, to take turns among equals
        self._turn = 0

    def choose(self, prompt: Sequence[int], loads: Mapping[int, int]) -> int:
        """The replica for `prompt` among those in `loads`, which tells the tokens that each has to do; there must be one.

        The longest known prefix wins, and among equals the least busy; but never one that is busier than the least busy by
        more than the margin and what it saves. Remembers the prompt as sent there.
        """
        keys = list(_blocks(prompt))
        known = {replica: self._known(replica, keys) for replica in loads}
        # In the order in which prefixes, loads and turns decide.
        best = min(loads, key=lambda replica: (-known[replica], loads[replica], self._turns.get(replica, 0)))
        idle = min(loads, key=lambda replica: (loads[replica], -known[replica], self._turns.get(replica, 0)))
        saved = (known[best] - known[idle]) * BLOCK_TOKENS
        chosen = best if loads[best] - loads[idle] <= self._margin_tokens + saved else idle
        self._turn += 1
        self._turns[chosen] = self._turn
        self._remember(chosen, keys)
        return chosen

    def forget(self, replica: int) -> None:
        """The replica has lost its cache."""
        self._sent.pop(replica, None)

    def _known(self, replica: int, keys: Sequence[int]) -> int:
        """How many leading blocks the replica was sent before."""
        sent = self._sent.get(replica)
        if not sent:
            return 0
        return next((place for place, key in enumerate(keys) if key not in sent), len(keys))

    def _remember(self, replica: int, keys: Sequence[int]) -> None:
        sent = self._sent.setdefault(replica, OrderedDict())
        for key in reversed(keys):  # the beginning last: many prompts share it, and what is oldest is forgotten first
            sent[key] = None
            sent.move_to_end(key)
        while len(sent) > self._most_blocks:
            sent.popitem(last=False)


def _blocks(prompt: Sequence[int]) -> Iterator[int]:
    """A number for every whole block that stands for it and all blocks before it."""
    data = array("I", prompt).tobytes()
    size = BLOCK_TOKENS * array("I").itemsize
    key = 0
    for start in range(0, len(data) - size + 1, size):
        key = hash((key, data[start : start + size]))
        yield key
