"""The largest step that the limits allow, run before there is a KV cache: its peak is what activations need.

All rows read and write the null page, so one page is enough, and what is computed is finite and means nothing.
"""

from __future__ import annotations

from tokenwell.engine.run.worker import Worker
from tokenwell.engine.schedule.plan import AddRow, RunRow, StepPlan
from tokenwell.wire.sampling import Sampling

_DESCRIBED = 64  # prompt tokens: as many are described at a time


def run_largest(worker: Worker, groups: int, max_num_seqs: int, budget: int, window: int) -> None:
    """One step of `budget` tokens in `max_num_seqs` rows, all sampled with a filter; then a step of single tokens.

    One single row is as long as the window allows. The first row wants its prompt described, for which every token's hidden
    state is kept. The worker must be fresh.
    """
    rows = min(max_num_seqs, budget)
    long = min(window, budget - rows + 1)
    nothing: tuple[tuple[int, ...], ...] = ((),) * groups
    sampling = Sampling(max_tokens=1, temperature=1.0, top_p=0.9)
    described = Sampling(max_tokens=1, temperature=1.0, top_p=0.9, prompt_logprobs=1)
    adds = [AddRow(0, [0] * long, min(long, _DESCRIBED + 1), described, nothing)]
    adds += [AddRow(row, [0] * (window if row == 1 else 1), 1, sampling, nothing) for row in range(1, rows)]
    runs = [RunRow(0, 0, long, nothing, True)]
    runs += [RunRow(row, window - 1 if row == 1 else 0, 1, nothing, True) for row in range(1, rows)]
    rest = budget - rows + 1 - long
    # With a window shorter than the budget, several rows prefill.
    for row in range(2, rows):
        if rest <= 0:
            break
        count = min(window, rest + 1)
        adds[row] = AddRow(row, [0] * count, 1, sampling, nothing)
        runs[row] = RunRow(row, 0, count, nothing, True)
        rest -= count - 1
    worker.run(StepPlan(0, add=tuple(adds), run=tuple(runs)))
    singles = tuple(RunRow(row, 0, 1, nothing, True) for row in range(rows))
    worker.run(StepPlan(1, run=singles))
    worker.forget_rows()
