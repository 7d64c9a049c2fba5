"""How fast does a CPU serve a Qwen2.5-0.5B-shaped random bf16 checkpoint, against transformers.generate on the same machine?

Decode at batch 1 and 8 (greedy, 32-token prompts) and prefill of 1024 tokens. Ours goes through the real service: HTTP,
streams, one request a row. The two take turns, so that both see the same machine; figures are medians over the rounds.
`limit_tok_s` is what the memory allows at batch 1: measured read bandwidth over the bytes of the weights. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.e2e import service as services  # noqa: E402

from benchmarks import random_checkpoint  # noqa: E402
from benchmarks.stream import stream_completion  # noqa: E402

NEW_TOKENS = 48
DECODE_PROMPT = 32
PREFILL_PROMPT = 1024


def prompt(length: int, seed: int) -> list[int]:
    """Random token ids; a new seed makes a prompt that no cache has seen."""
    return torch.randint(0, 100_000, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def ours(url: str, batch: int, seed: int) -> float:
    """Decoded tokens a second over all streams, first tokens excluded."""
    with ThreadPoolExecutor(batch) as pool:
        streams = list(pool.map(lambda i: stream_completion(url, prompt(DECODE_PROMPT, seed + i), NEW_TOKENS), range(batch)))
    start = max(stream.first_at for stream in streams)
    end = max(stream.last_at for stream in streams)
    tokens = sum(sum(at > start for at in stream.times) for stream in streams)
    return tokens / (end - start)


def our_prefill(url: str, seed: int) -> float:
    """Prompt tokens a second up to the first token."""
    stream = stream_completion(url, prompt(PREFILL_PROMPT, seed), 1)
    return PREFILL_PROMPT / stream.ttft


def theirs(model: Any, batch: int, seed: int) -> float:
    """The same by transformers: the time of a long generation less that of a short one."""
    ids = torch.tensor([prompt(DECODE_PROMPT, seed + i) for i in range(batch)])

    def generate(tokens: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return time.perf_counter() - started

    short = generate(4)
    return batch * (NEW_TOKENS - 4) / (generate(NEW_TOKENS) - short)


def their_prefill(model: Any, seed: int) -> float:
    """The same by transformers."""
    ids = torch.tensor([prompt(PREFILL_PROMPT, seed)])
    started = time.perf_counter()
    with torch.inference_mode():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0)
    return PREFILL_PROMPT / (time.perf_counter() - started)


def bandwidth() -> float:
    """Bytes a second that a plain sum reads from memory, the best of five."""
    block = torch.ones(1 << 26)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        best = max(best, block.nbytes / (time.perf_counter() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, default=Path(tempfile.gettempdir()) / "tokenwell-bench-qwen2.5-0.5b")
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    folder = random_checkpoint.write(options.checkpoint, random_checkpoint.QWEN2_5_0_5B)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    figures: dict[str, list[float]] = {}
    with services.serve(folder, Path(tempfile.mkdtemp()) / "service.log", "--kv-cache-gib=1") as service:
        for number in range(-1, options.rounds):  # round -1 warms both up
            seed = 1000 * (number + 2)
            got = {
                "ours_1": ours(service.url, 1, seed), "theirs_1": theirs(model, 1, seed),
                "ours_8": ours(service.url, 8, seed), "theirs_8": theirs(model, 8, seed),
                "ours_prefill": our_prefill(service.url, seed), "theirs_prefill": their_prefill(model, seed),
            }  # fmt: skip
            if number >= 0:
                for name, value in got.items():
                    figures.setdefault(name, []).append(value)
    median = {name: statistics.median(values) for name, values in figures.items()}
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(
        json.dumps(
            {
                "benchmark": "cpu_against_transformers",
                "tok_s": {name: round(value, 1) for name, value in median.items()},
                "ratio": {kind: round(median[f"ours_{kind}"] / median[f"theirs_{kind}"], 2) for kind in ("1", "8", "prefill")},
                "limit_tok_s": round(bandwidth() / weights, 1),
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
