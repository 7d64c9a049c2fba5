"""How much memory does loading take at its peak? A fresh engine process loads a Qwen2.5-0.5B-shaped bf16 checkpoint.

`over_mb` is the peak resident size less what the process had before loading and less the weights: temporary buffers,
compiled kernels, everything else. Prints one JSON line; the ratio is the allowed 300 MB over `over_mb`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

ALLOWED_MB = 300


def resident(field: str) -> float:
    """A size of this process in MB: VmRSS now, VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)


def load_here(folder: str) -> None:
    """In the engine's process: load, and print the sizes."""
    from tokenwell.config.load import preset_environment

    preset_environment("THP_MEM_ALLOC_ENABLE", "1")  # as the engine does
    from tokenwell.engine.load import load, warm_up
    from tokenwell.wire.spec import EngineSpec

    before = resident("VmRSS")
    loaded = load(EngineSpec(folder, "", ""))
    warm_up(loaded)
    print(json.dumps({"before_mb": before, "peak_mb": resident("VmHWM"), "weights_mb": loaded.ready.weights_bytes / 1e6}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path(tempfile.gettempdir()) / "tokenwell-bench-qwen2.5-0.5b")
    parser.add_argument("--here", help="internal: load this folder in this process")
    options = parser.parse_args()
    if options.here:
        load_here(options.here)
        return
    from benchmarks import random_checkpoint

    folder = random_checkpoint.write(options.checkpoint, random_checkpoint.QWEN2_5_0_5B)
    run = subprocess.run([sys.executable, __file__, "--here", str(folder)], check=True, capture_output=True, text=True)
    sizes = json.loads(run.stdout.splitlines()[-1])
    over = sizes["peak_mb"] - sizes["before_mb"] - sizes["weights_mb"]
    figures = {name: round(value, 1) for name, value in {**sizes, "over_mb": over}.items()}
    print(json.dumps({"benchmark": "load_memory", **figures, "ratio": round(ALLOWED_MB / over, 2)}))


if __name__ == "__main__":
    main()
