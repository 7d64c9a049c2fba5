"""The loss curve as a picture: `python -m training.curve loss.jsonl... loss.png`. Needs matplotlib, which nothing else does."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from matplotlib import pyplot  # type: ignore[import-not-found]


def draw(sources: list[Path], target: Path) -> None:
    """Loss and wrong tokens over all tokens seen, both on a logarithmic scale."""
    lines = [json.loads(line) for source in sources for line in source.read_text().splitlines()]
    seen = [line["tokens"] / 1e6 for line in lines]
    figure, axes = pyplot.subplots(figsize=(9, 4.5), dpi=110)
    axes.plot(seen, [line["loss"] for line in lines], linewidth=1, label="loss (nats a learned token)")
    axes.plot(seen, [max(1 - line["right"], 1e-5) for line in lines], linewidth=1, label="share of learned tokens wrong")
    for before, line in itertools.pairwise(lines):
        if line["run"] != before["run"]:
            axes.axvline(before["tokens"] / 1e6, color="grey", linewidth=0.7, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlabel("million tokens read (dotted: a new call)")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    *given, picture = map(Path, sys.argv[1:])
    draw(given, picture)
