"""Steps that are run before there is a KV cache: the largest that the limits allow, whose peak is what activations need, and
usual ones, for the kernels that they compile.

All rows read and write the null page, so one page is enough, and what is computed is finite and means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tokenwell.engine.run.worker import Worker
from tokenwell.engine.schedule.plan import AddRow, RunRow, StepPlan
from tokenwell.wire.sampling import Sampling

_DESCRIBED = 64  # prompt tokens: as many are described at a time
_PROMPTS = (8, 64, 128, 512, 2048)  # tokens; kernels differ by about such factors

Step = Callable[[], None]


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


def usual_steps(make: Callable[[], Worker], groups: int, max_num_seqs: int, budget: int, window: int) -> list[Step]:
    """The largest step, prompts of several lengths, and the decode steps that will be recorded, each to be run on its own.

    They may run side by side; `make` makes a fresh worker of one page, which records steps if the engine will.
    """
    steps: list[Step] = [lambda: run_largest(make(), groups, max_num_seqs, budget, window)]
    steps += [partial(_run_prompt, make, groups, length) for length in _PROMPTS if length <= min(budget, window - 1)]
    graphs = make().graphs
    return steps + ([partial(graphs.run_padding, size) for size in graphs.sizes] if graphs is not None else [])


def _run_prompt(make: Callable[[], Worker], groups: int, length: int) -> None:
    nothing: tuple[tuple[int, ...], ...] = ((),) * groups
    added = AddRow(0, [0] * length, length, Sampling(max_tokens=1, temperature=0.0), nothing)
    make().run(StepPlan(0, add=(added,), run=(RunRow(0, 0, length, nothing, True),)))
