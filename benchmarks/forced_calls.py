"""How many of N random schemas does a model of random weights call a tool validly for, when the call is forced?

The real service with the real engine, a tiny random checkpoint, `tool_choice: "required"`, temperature 1, every chat format.
Prints one JSON line; `ratio` is valid calls over all.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.e2e.forced import forced_calls, write_checkpoint

from tokenwell.chat.formats import FORMATS


def main() -> None:
    """Measure and print; what was wrong goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--formats", nargs="*", default=[name for name in FORMATS if name != "plain"])
    wanted = parser.parse_args()
    valid, seconds = {}, {}
    with tempfile.TemporaryDirectory() as name:
        checkpoint = write_checkpoint(Path(name) / "checkpoint")
        for format in wanted.formats:
            started = time.monotonic()
            wrong = forced_calls(checkpoint, Path(name) / "log", format, range(wanted.schemas))
            print(*wrong, sep="\n", end="", file=sys.stderr)
            valid[format] = wanted.schemas - len(wrong)
            seconds[format] = round(time.monotonic() - started, 1)
    ratio = sum(valid.values()) / (wanted.schemas * len(valid))
    print(
        json.dumps(
            {"question": "valid forced calls", "schemas": wanted.schemas, "valid": valid, "seconds": seconds, "ratio": ratio}
        )
    )


if __name__ == "__main__":
    main()
