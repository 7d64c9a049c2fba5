"""One request's answer, made whole when the request arrives: its tokens, or random ones.

Knows no sockets and no clock.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import replace

from tokenwell.chat.tokenizer import Tokenizer
from tokenwell.drivers.scripted.calls import arranged
from tokenwell.drivers.scripted.forced import Forced, GrammarRefused
from tokenwell.drivers.scripted.script import Request, Step, due, read
from tokenwell.drivers.scripted.writing import Writer
from tokenwell.wire.messages import Generate

_log = logging.getLogger("tokenwell.scripted")

_NO_FIT = "What the script says does not fit what this request allows."
_GARBAGE_TOKENS = 400  # how long garbage goes on when nothing ends it earlier
_MOST_FORCED_TOKENS = 10_000  # a walk costs about 0.1 ms a token, and every other request waits meanwhile


class Author:
    """Makes answers with one tokenizer in one chat format."""

    def __init__(self, tokenizer: Tokenizer, writer: Writer) -> None:
        self._tokenizer = tokenizer
        self._writer = writer
        self._forced: Forced | None = None

    def tokens(self, request: Generate) -> list[int]:
        """The whole answer with its end token. Raises GrammarRefused."""
        asked = read(self._tokenizer.decode(request.prompt, skip_special_tokens=False))
        steps = due(asked, self._writer.single)
        if request.sampling.grammar is None:
            tokens = self._writer.answer(steps)
        else:
            tokens = self._fitted(request, asked, steps, request.sampling.grammar)
        return [*tokens, self._writer.end_id]

    def filler(self) -> list[int]:
        """What is written, again and again, when a request wants more tokens than its answer has."""
        return self._writer.ids(" and so on")

    def garbage(self, seed: int) -> list[int]:
        """Random tokens, marks among them, and an end."""
        chance = random.Random(seed)
        return [*(chance.randrange(self._tokenizer.vocab_size) for _ in range(_GARBAGE_TOKENS)), self._writer.end_id]

    def _fitted(self, request: Generate, asked: Request, steps: list[Step], grammar: str) -> list[int]:
        """The script if the grammar allows it, else its first call, else a sentence, else a smallest instance."""
        forced = self._forced
        if forced is None:
            forced = self._forced = Forced(self._tokenizer, self._writer.end_id, self._writer.thinking_ids())
        matcher = forced.matcher(grammar)
        whole = self._writer.answer(steps)
        if forced.fits(matcher, whole):
            return whole
        steps = [replace(step, arguments=arranged(step.arguments, asked.tools.get(step.text))) for step in steps]
        first = next((index for index, step in enumerate(steps) if step.kind == "call"), None)
        candidates = [] if first is None else [steps, steps[: first + 1], [steps[first]], [Step("say", _NO_FIT)]]
        for candidate in candidates:
            tokens = self._writer.answer(candidate)
            if forced.fits(matcher, tokens):
                if candidate is not steps:
                    _log.warning("request %s allows only a part of its script, or none: %s", request.id, _told(steps))
                return tokens
        openings = [*(self._writer.opening(tool) for tool in asked.tools), self._writer.content_opening()]
        limit = min(request.sampling.max_tokens, _MOST_FORCED_TOKENS)
        smallest = forced.smallest(matcher, openings, self._writer.closings(), limit)
        if smallest is None:
            raise GrammarRefused(f"no text of at most {limit} tokens was found that the grammar allows")
        return smallest


def _told(steps: Sequence[Step]) -> str:
    """A script as a log shows it."""
    return "; ".join(f"{step.kind} {step.text} {json.dumps(step.arguments)}"[:200] for step in steps)
