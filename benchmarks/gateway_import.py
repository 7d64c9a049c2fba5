"""How long does importing the gateway take, and how much memory? Fresh interpreters, one after the other.

Prints one JSON line with medians; the ratios are the allowed 0.5 s and 80 MB over what was measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

ALLOWED_S, ALLOWED_MB = 0.5, 80
CODE = """
import time, sys
started = time.perf_counter()
import tokenwell.api.server, tokenwell.cli.main
seconds = time.perf_counter() - started
assert "torch" not in sys.modules
import psutil
print(seconds, psutil.Process().memory_info().rss / 1e6)
"""


def main() -> None:
    runs = []
    for _ in range(7):
        output = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout
        runs.append([float(word) for word in output.split()])
    seconds, megabytes = (statistics.median(values) for values in zip(*runs, strict=True))
    ratio = {"time": round(ALLOWED_S / seconds, 2), "memory": round(ALLOWED_MB / megabytes, 2)}
    print(json.dumps({"benchmark": "gateway_import", "seconds": round(seconds, 3), "rss_mb": round(megabytes), "ratio": ratio}))


if __name__ == "__main__":
    main()
