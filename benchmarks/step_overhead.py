"""What does a step cost beside the model? 32 streams of the bundled model through the whole service.

`overhead_ms` is the wall-clock time of a step as the clients see it (the streams' duration over the engine's steps) less the
time that the model itself took: scheduling, messages, detokenising, HTTP, sockets. `engine_ms` is the engine's own part.
`scheduler_us` is the scheduler alone, by decoding rows, as an accelerator's loop calls it: one step planned while the step
before is in flight. Prints one JSON line; the ratio is the 1 ms that is allowed over what was measured, `scheduler_ratio` the
worst of what the scheduler is allowed over what it took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e import service as services  # noqa: E402
from tests.e2e.service import Service  # noqa: E402

from benchmarks.gateway import read_all_in_a_process  # noqa: E402
from tokenwell.engine.schedule.plan import Sampled, StepResult  # noqa: E402
from tokenwell.engine.schedule.scheduler import Scheduler  # noqa: E402
from tokenwell.wire.cache import KvGroup  # noqa: E402
from tokenwell.wire.messages import Generate  # noqa: E402
from tokenwell.wire.sampling import Sampling  # noqa: E402

ROWS = 32
ALLOWED_MS = 1.0
ALLOWED_US = {1: 30.0, 32: 90.0, 64: 150.0, 256: 600.0}  # schedule() and apply() together, by rows


def numbers(service: Service) -> dict[str, float]:
    """The engine's running totals."""
    names = ("engine_steps", "engine_step_seconds", "engine_model_seconds")
    return {name: service.metric(f"tokenwell_{name}_total") for name in names}


def measure(service: Service, tokens: int) -> dict[str, float]:
    """One run."""
    before, started = numbers(service), time.monotonic()
    result = read_all_in_a_process(service.port, ROWS, tokens, "/v1/completions", tools=False)
    after = numbers(service)
    change = {name: after[name] - before[name] for name in before}
    steps = change["engine_steps"]
    model_ms = 1000 * change["engine_model_seconds"] / steps
    return {
        "step_ms": 1000 * result["seconds"] / steps,
        "model_ms": model_ms,
        "overhead_ms": 1000 * result["seconds"] / steps - model_ms,
        "engine_ms": 1000 * change["engine_step_seconds"] / steps - model_ms,
        "chunks_per_s": result["chunks"] / result["seconds"],
        "wall_s": time.monotonic() - started,
    }


def scheduler_us(rows: int, steps: int = 300) -> float:
    """One schedule() and one apply() for so many decoding rows, in a model with two kinds of layers: the median."""
    groups = (KvGroup("full", (0,), 1, 1, None, 2, 16), KvGroup("sliding", (1,), 1, 1, 512, 2, 32))
    scheduler = Scheduler(groups, 50_000, rows, max(8192, rows), 2048)
    for index in range(rows):
        scheduler.add(Generate(str(index), [index] * 100, Sampling(max_tokens=steps)))
    plan, times = scheduler.schedule(), []
    while plan is not None:
        result = StepResult(plan.step, tuple(Sampled(run.row, 5) for run in plan.run if run.sample))
        started = time.perf_counter()
        plan = scheduler.schedule()
        scheduler.apply(result)
        times.append(1e6 * (time.perf_counter() - started))
    return statistics.median(times[10:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--scheduler-only", action="store_true", help="without the service")
    options = parser.parse_args()
    alone = {rows: round(statistics.median(scheduler_us(rows) for _ in range(options.rounds)), 1) for rows in ALLOWED_US}
    line: dict[str, object] = {
        "benchmark": "step_overhead", "scheduler_us": alone,
        "scheduler_ratio": round(min(ALLOWED_US[rows] / alone[rows] for rows in alone), 2),
    }  # fmt: skip
    if options.scheduler_only:
        print(json.dumps(line))
        return
    with services.serve(None, Path(tempfile.mkdtemp()) / "service.log", "--threads=1") as service:
        measure(service, 50)
        runs = [measure(service, options.tokens) for _ in range(options.rounds)]
    median = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
    print(json.dumps(line | {"rows": ROWS, **median, "ratio": round(ALLOWED_MS / median["overhead_ms"], 2)}))


if __name__ == "__main__":
    main()
