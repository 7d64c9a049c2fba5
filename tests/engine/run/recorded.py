"""A stand-in for recordings where there is no card, and requests that meet recorded steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tokenwell.engine.load import Loaded, scheduler_for
from tokenwell.wire.messages import Generate

NAMES = ("gemma4-e", "gemma4-moe", "gpt-oss", "gpt-oss-mxfp4", "qwen3")


class Repeated:
    """Replays by computing again, into the same output."""

    pool = None

    def __init__(self, work: Callable[[], torch.Tensor], device: torch.device, pool: object) -> None:
        self._work = work
        self.output = work()

    def replay(self) -> None:
        """Compute again."""
        self.output.copy_(self._work())


def answers(loaded: Loaded, requests: list[Generate]) -> dict[str, list[int]]:
    """What the requests are answered; a new one joins in every third step."""
    scheduler = scheduler_for(loaded.ready, prefix_cache=True)
    tokens: dict[str, list[int]] = {request.id: [] for request in requests}
    waiting, steps = list(requests), 0
    while waiting or not scheduler.idle:
        if waiting and steps % 3 == 0:
            assert scheduler.add(waiting.pop(0)) is None
        steps += 1
        plan = scheduler.schedule()
        if plan is None:
            continue
        for output in scheduler.apply(loaded.worker.run(plan)):
            tokens[output.id] += output.tokens
    return tokens
