"""The workload that small engines publish (nano-vllm's bench.py): Qwen3-0.6B's shape, 256 sequences, prompt and output lengths
uniform in 100 to 1024 from Python's generator with seed 0 (133,966 output tokens), temperature 0.6. Output tokens a second.

Prints one JSON line; vLLM 0.26.0 makes 21,850 of them on one H200.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.cases import SMALL, add_options, chosen  # noqa: E402
from benchmarks.gpu.engine import Engine  # noqa: E402
from tokenwell.wire.messages import Generate  # noqa: E402
from tokenwell.wire.sampling import Sampling  # noqa: E402

VLLM_TOK_S = 21_850
_SEQUENCES, _SHORTEST, _LONGEST = 256, 100, 1024


def requests(count: int, shortest: int, longest: int, vocabulary: int) -> list[Generate]:
    """The published lengths when the arguments are the published ones."""
    chance = random.Random(0)
    largest = min(10_000, vocabulary - 1)
    prompts = [[chance.randint(0, largest) for _ in range(chance.randint(shortest, longest))] for _ in range(count)]
    lengths = [chance.randint(shortest, longest) for _ in range(count)]
    return [
        Generate(str(index), prompt, Sampling(max_tokens=length, temperature=0.6))
        for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--sequences", type=int, default=_SEQUENCES)
    parser.add_argument("--shortest", type=int, default=_SHORTEST)
    parser.add_argument("--longest", type=int, default=_LONGEST)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    case = chosen(options, (SMALL,))[0]
    engine = Engine(case.spec(options.device, max_num_seqs=options.sequences, max_model_len=2 * options.longest))
    todo = requests(options.sequences, options.shortest, options.longest, engine.ready.vocab_size)
    runs = [engine.run(todo) for _ in range(options.rounds + 1)][1:]
    tokens = sum(request.sampling.max_tokens for request in todo)
    assert all(run.tokens == tokens for run in runs)
    rate = tokens / statistics.median(run.seconds for run in runs)
    line: dict[str, object] = {
        "benchmark": "small_engine_workload", "model": case.name, "sequences": len(todo), "output_tokens": tokens,
        "tok_s": round(rate), "steps": len(runs[0].steps), "rounds": len(runs),
    }  # fmt: skip
    if case is SMALL and (options.sequences, options.shortest, options.longest) == (_SEQUENCES, _SHORTEST, _LONGEST):
        line |= {"vllm_tok_s": VLLM_TOK_S, "ratio": round(rate / VLLM_TOK_S, 3), "passes": rate >= 0.9 * VLLM_TOK_S}
    print(json.dumps(line | {"device": engine.ready.device}), flush=True)
    return line


if __name__ == "__main__":
    main()
