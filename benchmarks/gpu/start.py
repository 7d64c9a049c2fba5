"""How long from an engine's start to its first token? Random weights, a fresh process, kernel cache empty and filled.

Prints one JSON line a case. `seconds` is wall-clock time from the start of the interpreter to the first token of a 1024-token
prompt; `parts` says what the process itself saw. The ratio is what is allowed (30 s cold, 12 s warm) over what was measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.cases import CASES, Case, add_options, chosen  # noqa: E402

ALLOWED_S = {"cold": 30.0, "warm": 12.0}


def child(case: Case, device: str, prompt: int) -> None:
    """Load, answer one request, say how long each took."""
    from benchmarks.gpu.engine import Engine

    began = time.perf_counter()
    engine = Engine(case.spec(device, max_model_len=2 * prompt))
    run = engine.greedy(engine.prompts(1, prompt, 0), 2)
    parts = {
        "load_s": round(engine.load_seconds, 2), "warm_up_s": round(engine.start_seconds - engine.load_seconds, 2),
        "first_token_s": round(run.first_token_s(), 3), "all_s": round(time.perf_counter() - began, 2),
        "notes": engine.loaded.notes[-3:],
    }  # fmt: skip
    print(json.dumps(parts))


def measure(case: Case, device: str, prompt: int) -> list[dict[str, object]]:
    """Cold, then warm."""
    lines: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "warm"):
            command = [
                "env", f"TRITON_CACHE_DIR={cache}", sys.executable, __file__, "--child", case.name, "--device", device,
                "--prompt", str(prompt),
            ]  # fmt: skip
            if case.name not in {known.name for known in CASES}:
                command += ["--config", str(case.config), "--quantization", case.quantization]
                command += ["--kv-cache-dtype", case.kv_cache_dtype]
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - started
            if done.returncode:
                raise RuntimeError(f"the engine's process failed:\n{done.stderr[-2000:]}")
            line: dict[str, object] = {
                "benchmark": "start", "model": case.name, "kernel_cache": state, "seconds": round(seconds, 2),
                "allowed_s": ALLOWED_S[state], "ratio": round(ALLOWED_S[state] / seconds, 2),
                "parts": json.loads(done.stdout.splitlines()[-1]),
            }  # fmt: skip
            print(json.dumps(line), flush=True)
            lines.append(line)
    return lines


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        if options.config is None:
            options.model = [options.child]
        child(chosen(options)[0], options.device, options.prompt)
        return []
    return [line for case in chosen(options) for line in measure(case, options.device, options.prompt)]


if __name__ == "__main__":
    main()
