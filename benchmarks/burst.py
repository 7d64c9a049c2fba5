"""How long do requests wait for each other? Through the whole service: the bundled model, or a Qwen2.5-0.5B shape on request.

`--count` different prompts of `--length` tokens at once, as an agent's helpers send them: when do first tokens come? Served one
after the other, the mean is (count + 1) / 2 times what one alone takes (`limit_s`), served side by side it is `last_s`.
Then a stream and beside it a long prompt: `usual_s` and `pause_s` are the median and the longest time between two of the
stream's tokens, `long_s` is the long prompt's first token, and `late_s` that of a short one that comes later still. Prints one
JSON line with the medians of the rounds; the ratio is the limit over the mean.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e import service as services  # noqa: E402

from benchmarks import random_checkpoint  # noqa: E402
from benchmarks.stream import stream_completion  # noqa: E402

VOCABULARY = 4000  # ids that every model has
TOKENS = 16  # of each answer
LATE = 32  # tokens of the prompt that comes late
STREAM = 150  # tokens of the stream beside the long prompt


def measure(url: str, count: int, length: int, chance: random.Random) -> dict[str, float]:
    """One round: seconds."""

    def prompt(tokens: int) -> list[int]:
        return [chance.randrange(VOCABULARY) for _ in range(tokens)]

    alone = stream_completion(url, prompt(length), TOKENS).ttft
    with ThreadPoolExecutor(count + 1) as pool:
        started = time.perf_counter()
        streams = list(pool.map(lambda tokens: stream_completion(url, tokens, TOKENS), [prompt(length) for _ in range(count)]))
        firsts = [stream.first_at - started for stream in streams]
        beside = pool.submit(stream_completion, url, prompt(LATE), STREAM)
        time.sleep(alone / 4)
        long = pool.submit(stream_completion, url, prompt(4 * length), TOKENS)
        time.sleep(alone / 2)
        late = stream_completion(url, prompt(LATE), TOKENS).ttft
        gaps = [after - before for before, after in pairwise(beside.result().times)]
    return {
        "alone_s": alone, "first_s": min(firsts), "mean_s": statistics.mean(firsts), "last_s": max(firsts),
        "limit_s": alone * (count + 1) / 2, "usual_s": statistics.median(gaps), "pause_s": max(gaps),
        "long_s": long.result().ttft, "late_s": late,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random", action="store_true", help="random bf16 weights in the shape of Qwen2.5-0.5B")
    options = parser.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        model = random_checkpoint.write(Path(folder) / "model", random_checkpoint.QWEN2_5_0_5B) if options.random else None
        with services.serve(model, Path(folder) / "service.log") as service:
            measure(service.url, options.count, 100, chance)
            runs = [measure(service.url, options.count, options.length, chance) for _ in range(options.rounds)]
    median = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
    ratio = round(median["limit_s"] / median["mean_s"], 2)
    print(json.dumps({"benchmark": "burst", "count": options.count, "length": options.length, **median, "ratio": ratio}))


if __name__ == "__main__":
    main()
