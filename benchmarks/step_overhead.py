"""What does a step cost beside the model? 32 streams of the bundled tiny model through the whole service.

`overhead_ms` is the wall-clock time of a step as the clients see it (the streams' duration over the engine's steps) less the
time that the model itself took: scheduling, messages, detokenising, HTTP, sockets. `engine_ms` is the engine's own part.
Prints one JSON line; the ratio is the 1 ms that is allowed over what was measured.
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

ROWS = 32
ALLOWED_MS = 1.0


def numbers(service: Service) -> dict[str, float]:
    """The engine's running totals."""
    names = ("engine_steps", "engine_step_seconds", "engine_model_seconds")
    return {name: service.metric(f"tokenwell_{name}_total") for name in names}


def measure(service: Service, tokens: int) -> dict[str, float]:
    """One run."""
    before, started = numbers(service), time.monotonic()
    result = read_all_in_a_process(service.port, ROWS, tokens, "/v1/completions")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=500)
    options = parser.parse_args()
    with services.serve(None, Path(tempfile.mkdtemp()) / "service.log", "--threads=1") as service:
        measure(service, 50)
        runs = [measure(service, options.tokens) for _ in range(options.rounds)]
    median = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
    print(
        json.dumps({"benchmark": "step_overhead", "rows": ROWS, **median, "ratio": round(ALLOWED_MS / median["overhead_ms"], 2)})
    )


if __name__ == "__main__":
    main()
