"""What do grammars cost? Eight rows of a Qwen2.5-0.5B-shaped random model with 128k tokens on the CPU, free or constrained.

One process, no HTTP: scheduler, worker and masks, as the engine runs them. Three batches decode side by side and take turns step
by step, so that all see the same machine: eight free rows, eight rows with a JSON schema, and eight rows of free text in which a
mark opens a call (`tool_choice: auto`), half of them inside such a call. `tpot_ms` are median steps. Prints one JSON line; ratios
are medians of a constrained step's time over that of the free step beside it: 1.05 is allowed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks import random_checkpoint  # noqa: E402
from tokenwell.wire.messages import Generate  # noqa: E402
from tokenwell.wire.sampling import Sampling  # noqa: E402
from tokenwell.wire.spec import EngineSpec  # noqa: E402

ROWS = 8
VOCABULARY = 128_000
ALLOWED = 1.05
SPECIAL = ("<|end|>", "<|call|>", "<|/call|>")
STOP = VOCABULARY - len(SPECIAL)
CALL = STOP + 1
SCHEMA: dict[str, Any] = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "kind": {"enum": ["file", "folder", "link"]},
        "size": {"type": "integer", "minimum": 0},
        "lines": {"type": "array", "minItems": 500, "items": {"type": "object", "properties": {
            "text": {"type": "string", "minLength": 20}, "number": {"type": "number"}, "seen": {"type": "boolean"},
        }, "required": ["text", "number"], "additionalProperties": False}},
    },
    "required": ["lines"],
    "additionalProperties": False,
}  # fmt: skip
CALLING = (
    f'call: <[{CALL}]> "{{\\"name\\": \\"write\\", \\"arguments\\": " arguments "}}" <[{CALL + 1}]>\n'
    f"gap: <[0-{STOP - 1}]>*\narguments: %json {json.dumps(SCHEMA)}"
)
# For even and for odd rows: an untrained model takes a mark once in 128k tokens, so that odd rows have to begin with it.
GRAMMARS = {
    "free": (None, None),
    "schema": ("start: %json " + json.dumps(SCHEMA),) * 2,
    "auto": (f"start: (gap call)* gap\n{CALLING}", f"start: (call gap)+\n{CALLING}"),
}


def tokenizer_json() -> str:
    """A byte-level BPE of 128k entries: random words over printable characters, each made from two shorter entries."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    letters = [letter for letter in alphabet if letter.isascii()] + ["Ġ"]
    chance = random.Random(0)
    vocabulary = {letter: id for id, letter in enumerate(alphabet)}
    merges, words = [], list(letters)
    while len(vocabulary) < STOP:
        pair = [chance.choice(words), chance.choice(letters)]
        word = "".join(pair)
        if word not in vocabulary and len(word) <= 12:
            vocabulary[word] = len(vocabulary)
            merges.append(pair)
            words.append(word)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": STOP + place, "content": text, **flags, "special": True} for place, text in enumerate(SPECIAL)],
        "pre_tokenizer": level, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False,
                  "vocab": vocabulary, "merges": merges},
    })  # fmt: skip


class Rows:
    """Eight rows under one condition, with a cache of their own beside the model that all share."""

    def __init__(self, loaded: Any, name: str, seed: int, tokens: int) -> None:
        from tokenwell.engine.load import scheduler_for
        from tokenwell.engine.run.kv import KvPool
        from tokenwell.engine.run.worker import Worker

        ready, worker = loaded.ready, loaded.worker
        pool = KvPool(ready.groups, ready.page_bytes, ready.num_pages, torch.bfloat16, worker.device)
        self._worker = Worker(
            worker.model, ready.groups, pool, worker.device, worker.grammars,
            max_num_seqs=ready.max_num_seqs, max_model_len=ready.max_model_len,
        )  # fmt: skip
        self._scheduler = scheduler_for(ready, prefix_cache=False)
        self.times: list[float] = []
        chance = random.Random(seed)
        for row in range(ROWS):
            sampling = Sampling(seed=seed + row, max_tokens=tokens, grammar=GRAMMARS[name][row % 2])
            self._scheduler.add(Generate(f"{name} {row}", chance.choices(range(STOP), k=32), sampling))

    def step(self) -> None:
        """One step; it counts when all rows decode."""
        began = time.perf_counter()
        plan = self._scheduler.schedule()
        if plan is None:
            raise SystemExit("a row ended too early")
        outputs = self._scheduler.apply(self._worker.run(plan))
        if len(plan.run) == plan.tokens == ROWS:
            self.times.append(time.perf_counter() - began)
        if wrong := [output.error for output in outputs if output.error]:
            raise SystemExit(f"a row failed: {wrong[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--checkpoint", type=Path, default=Path(tempfile.gettempdir()) / "tokenwell-bench-qwen2.5-0.5b-128k")
    options = parser.parse_args()
    from tokenwell.engine.load import load, warm_up

    shape = random_checkpoint.QWEN2_5_0_5B | {"vocab_size": VOCABULARY, "bos_token_id": STOP, "eos_token_id": STOP}
    folder = random_checkpoint.write(options.checkpoint, shape)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    (folder / "tokenizer_config.json").write_text("{}")
    loaded = load(EngineSpec(str(folder), "", "", max_model_len=1024, kv_cache_gib=0.25))
    warm_up(loaded)
    began = time.perf_counter()
    _ = loaded.worker.grammars.tokenizer
    tokenizer_s = time.perf_counter() - began
    conditions = {name: Rows(loaded, name, 1, options.steps + 8) for name in GRAMMARS}
    for _ in range(options.steps + 4):
        for rows in conditions.values():
            rows.step()
    times = {name: rows.times[4:] for name, rows in conditions.items()}  # the first ones compile kernels
    ratios = {
        name: statistics.median(held / free for held, free in zip(times[name], times["free"], strict=True))
        for name in GRAMMARS
        if name != "free"
    }
    figures = {
        "benchmark": "mask_overhead",
        "tpot_ms": {name: round(1000 * statistics.median(steps), 2) for name, steps in times.items()},
        "ratio": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "allowed": ALLOWED,
        "tokenizer_s": round(tokenizer_s, 2),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
