"""How many prompt tokens a second? 8192 tokens, as one prompt and as eight of 1024 (and 32,768 for gpt-oss), random weights.
With `--length`, one prompt of each of these lengths instead: what a question adds to a conversation that is known.

Prints one JSON line a case: our tokens a second until every prompt has its first token (the median of the rounds), the rate of
operations that this is, and the ratio to vLLM's figure where there is one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import limit  # noqa: E402
from benchmarks.gpu.cases import Case, add_options, chosen  # noqa: E402
from benchmarks.gpu.engine import Engine  # noqa: E402

_PEAK_TFLOPS = {"auto": 780.0, "fp8": 1560.0}  # of an H200's matrix units in practice; experts in MXFP4 are multiplied in bf16


def shapes(case: Case, options: argparse.Namespace) -> list[tuple[int, int]]:
    """(prompts, tokens each)."""
    if options.length:
        return [(1, length) for length in options.length]
    total = options.total
    wide = [(1, size) for size in case.prefill_tok_s if size > total] if total == 8192 else []
    return [(1, total), (8, total // 8), *wide]


def measure(case: Case, options: argparse.Namespace) -> list[dict[str, object]]:
    """All shapes of one model."""
    todo = shapes(case, options)
    longest = max(length for _, length in todo)
    step = None if options.step is None else min(longest, options.step)
    spec = case.spec(options.device, max_num_seqs=8, max_model_len=longest + 8, max_num_batched_tokens=step)
    engine = Engine(spec)
    lines: list[dict[str, object]] = []
    for count, length in todo:
        runs = [
            engine.greedy(engine.prompts(count, length, seed), 1).first_token_s() for seed in range(options.rounds + 1)
        ][1:]  # fmt: skip
        seconds = statistics.median(runs)
        rate = count * length / seconds
        tflops = limit.prefill_flops(case.config, length, count) / seconds / 1e12
        peak = _PEAK_TFLOPS.get(case.quantization, 780.0)
        line: dict[str, object] = {
            "benchmark": "prefill", "model": case.name, "prompts": count, "length": length,
            "step": engine.ready.max_num_batched_tokens,
            "tok_s": round(rate), "ms": round(1000 * seconds, 2), "rounds": len(runs), "tflop_s": round(tflops, 2),
            "limit_tflop_s": peak, "ratio": round(tflops / peak, 3),
        }  # fmt: skip
        if (theirs := case.prefill_tok_s.get(count * length)) is not None:
            line |= {"vllm_tok_s": theirs, "to_vllm": round(rate / theirs, 3), "passes": rate >= 0.9 * theirs}
        line |= {"device": engine.ready.device}
        print(json.dumps(line), flush=True)
        lines.append(line)
    return lines


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--total", type=int, default=8192, help="prompt tokens in all")
    parser.add_argument("--length", type=int, nargs="+", help="tokens of single prompts")
    parser.add_argument("--step", type=int, help="tokens that a step takes at most; default: the engine's choice")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    return [line for case in chosen(options) for line in measure(case, options)]


if __name__ == "__main__":
    main()
