"""How long does a token take at batch 1, 8 and 64 (and 256)? 1024-token random prompts, 128 new tokens, greedy, random weights.

Prints one JSON line a case: our milliseconds a step (the median of the rounds), the limit (bytes that the step must read over
the measured speed of memory), their ratio, and the ratio to vLLM's figure where there is one (above 1: we are faster).
`--profile` also prints where the microseconds of a step go, kernel by kernel. With `--weights vllm` weights, norms and biases are
drawn as its dummy weights are, uniform in +-0.001: its figures are for those, with which rows of a mixture choose much alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import limit, profile  # noqa: E402
from benchmarks.gpu.cases import Case, add_options, chosen  # noqa: E402
from benchmarks.gpu.engine import Engine  # noqa: E402
from tokenwell.engine.weights.dummy import DummyCheckpoint  # noqa: E402

VLLM_DRAWS_WITHIN = 1e-3


def measure(case: Case, options: argparse.Namespace) -> list[dict[str, object]]:
    """All batch sizes of one model."""
    most = max(options.batch)
    spec = case.spec(
        options.device, prefix_cache=options.equal_prompts, max_num_seqs=most, max_model_len=options.prompt + options.tokens,
        max_num_batched_tokens=max(8192, most), graphs=not options.no_graphs,
    )  # fmt: skip
    engine = Engine(spec)
    if options.row_by_row:
        engine.worker.shared_graphs = None
    bandwidth = limit.memory_bytes_per_second(engine.worker.device)
    lines: list[dict[str, object]] = []
    for batch in options.batch:
        # The first round compiles and records.
        runs = [
            engine.greedy(_prompts(engine, batch, options, seed), options.tokens).decode_ms(batch)
            for seed in range(options.rounds + 1)
        ][1:]
        ms = statistics.median(runs)
        alike = options.equal_prompts or options.weights == "vllm"  # then: nearly, so that the limit is a lower bound
        size = limit.step_bytes(
            case.config, case.quantization, limit.kv_value_bytes(case.kv_cache_dtype, case.config), batch,
            options.prompt + options.tokens // 2, 1 if alike else None,
            options.prompt if options.equal_prompts else 0,
        )  # fmt: skip
        floor = 1000 * size / bandwidth
        line: dict[str, object] = {
            "benchmark": "decode", "model": case.name, "batch": batch, "tpot_ms": round(ms, 3), "rounds": len(runs),
            "tok_s": round(1000 * batch / ms), "limit_ms": round(floor, 3), "ratio": round(floor / ms, 3),
        }  # fmt: skip
        if options.equal_prompts:
            line |= {"prompts": "equal", "shared": engine.worker.shared_graphs is not None}
        if options.weights == "vllm":
            line["weights"] = "as vLLM draws them"
        if batch in case.tpot_ms:
            line |= {"vllm_ms": case.tpot_ms[batch], "to_vllm": round(case.tpot_ms[batch] / ms, 3)}
        if batch in case.gate_ms:
            line |= {"gate_ms": case.gate_ms[batch], "passes": ms <= case.gate_ms[batch]}
        line |= {"bandwidth_tb_s": round(bandwidth / 1e12, 3), "device": engine.ready.device}
        print(json.dumps(line), flush=True)
        lines.append(line)
        if options.profile:
            print(profile.table(engine, _prompts(engine, batch, options, seed=99)), flush=True)
    return lines


def _prompts(engine: Engine, batch: int, options: argparse.Namespace, seed: int) -> list[list[int]]:
    if not options.equal_prompts:
        return engine.prompts(batch, options.prompt, seed)
    return engine.prompts(1, options.prompt, seed) * batch


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--equal-prompts", action="store_true", help="all rows alike: a mixture reads the experts of one row")
    parser.add_argument("--row-by-row", action="store_true", help="pages that equal prompts share are read for each row")
    parser.add_argument("--weights", choices=("ours", "vllm"), default="ours", help="whose random weights")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    DummyCheckpoint.within = VLLM_DRAWS_WITHIN if options.weights == "vllm" else None
    try:
        return [line for case in chosen(options) for line in measure(case, options)]
    finally:
        DummyCheckpoint.within = None


if __name__ == "__main__":
    main()
