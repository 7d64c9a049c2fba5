"""A plan on its way through the device, and what its result means for each of its sequences.

Knows nothing of pages, rows or the queue.
"""

from __future__ import annotations

from tokenwell.engine.schedule.plan import RunRow, Sampled, StepResult
from tokenwell.engine.schedule.sequence import Sequence
from tokenwell.wire.errors import RequestError
from tokenwell.wire.messages import Output


class Flight:
    """A step that was planned and whose result has not been seen."""

    __slots__ = ("advanced", "rows", "step")

    def __init__(self, step: int, rows: list[tuple[Sequence, RunRow]]) -> None:
        self.step = step
        self.rows = rows
        self.advanced = False  # whether the sequences count this step's tokens as computed

    def match(self, result: StepResult) -> dict[int, Sampled]:
        """The sampled tokens by row. Raises ValueError if the result is not this step's, or lacks something."""
        if result.step != self.step:
            raise ValueError(f"result of step {result.step}, but step {self.step} comes first")
        sampled = {item.row: item for item in result.sampled}
        expected = {run.row for _, run in self.rows if run.sample}
        if sampled.keys() != expected:
            raise ValueError(f"step {result.step}: rows {sorted(sampled)} were sampled instead of {sorted(expected)}")
        for seq, run in self.rows:
            item = sampled[run.row] if run.sample else None
            if item is not None:
                if item.token is None:
                    if not item.ended and item.error is None:
                        raise ValueError(f"step {result.step}, row {run.row}: no token, and no reason why")
                elif seq.sampling.logprobs is not None and item.logprob is None:
                    raise ValueError(f"step {result.step}, row {run.row}: the sampled token's logprob is missing")
            if seq.prompt_logprobs is not None:
                got = len(result.prompt_logprobs.get(run.row, ()))
                due = max(0, min(run.start + run.count, seq.prompt_tokens - 1) - run.start)  # 0 behind the prompt: an aborted row
                if got != due:
                    raise ValueError(f"step {result.step}, row {run.row}: {got} prompt logprobs instead of {due}")
        return sampled


def answer(seq: Sequence, sampled: Sampled | None) -> Output:
    """All known tokens of `seq` are computed: take the new token, if one was sampled, and see whether it ends."""
    finish: str | None = None
    stop_id: int | None = None
    tokens: list[int] = []
    logprobs = None
    error: RequestError | None = None
    first = len(seq.tokens) == seq.prompt_tokens
    cached, kept = (seq.cached or 0, seq.kept) if first else (0, 0)  # told in the first output only
    seq.pending = 0
    if sampled is not None:
        token = sampled.token
        if token is not None:
            tokens.append(token)
            seq.tokens.append(token)
            if sampled.logprob is not None and seq.sampling.logprobs is not None:
                logprobs = [sampled.logprob]
            if token in seq.sampling.stop_ids and len(seq.tokens) - seq.prompt_tokens > seq.sampling.min_tokens:
                finish, stop_id = "stop", token
        if sampled.error is not None:
            finish, error = "error", RequestError("invalid_request", sampled.error)
        elif sampled.ended:
            finish = "stop"
    if finish is None and len(seq.tokens) >= seq.limit:
        finish = "length"
    prompt_logprobs, seq.prompt_logprobs = seq.prompt_logprobs, None
    return Output(seq.id, tokens, logprobs, prompt_logprobs, cached, finish, stop_id, error, kept)
