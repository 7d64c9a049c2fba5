"""How near do predicted speeds come to measured ones? Every figure of speed_figures.toml, predicted over measured.

Prints a table and, as the last line, one JSON object: the median error, and how many figures that nobody doubts are beyond 2x.
`--markdown` prints the table for docs/.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenwell.plan.card import ModelCard, read_card
from tokenwell.plan.gpus import find_gpus, processor
from tokenwell.plan.link import Layout, link_of
from tokenwell.plan.speed import Speed, predict

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "tests" / "plan" / "configs"
FIGURES = HERE / "speed_figures.toml"
MOST_ERROR = 0.25  # of the median
MOST_RATIO = 2.0  # of a figure that nobody doubts


@dataclass(frozen=True)
class Compared:
    """One figure. Times are turned into rates, so that more is always faster."""

    source: str
    model: str
    what: str
    measured: str
    predicted: float
    ratio: float  # predicted speed over measured speed
    doubt: str
    fitted: bool


def compare(path: Path = FIGURES) -> list[Compared]:
    """All figures of the file."""
    runs = tomllib.loads(path.read_text(encoding="utf-8"))["run"]
    return [line for run in runs for line in _compare_run(run)]


def median_error(lines: list[Compared]) -> float:
    """Of the figures that nobody doubts, each distinct one counted once: a series of equal windows is one figure."""
    distinct = {(line.source, line.model, line.what): line.ratio for line in lines if not line.doubt}
    return statistics.median(abs(ratio - 1) for ratio in distinct.values())


def _compare_run(run: Mapping[str, Any]) -> Iterator[Compared]:
    card = stored_card(run)
    for figure in run["figures"]:
        key = next(key for key in figure if key.endswith(("_tok_s", "_ms")))
        low, high = (figure[key], figure[key]) if not isinstance(figure[key], list) else figure[key]
        measured = math.sqrt(low * high)
        speed = _speed(run, card, figure)
        batch, prompt = figure.get("batch", 1), figure.get("prompt", 1024)
        predicted = {
            "decode_tok_s": speed.decode_tokens_s, "decode_ms": speed.tpot_ms, "prefill_tok_s": speed.prefill_tokens_s,
            "first_token_ms": speed.ttft_ms, "workload_tok_s": 0.0,
        }[key]  # fmt: skip
        if key == "workload_tok_s":
            predicted = _workload(run, card)
        what = {
            "decode_tok_s": f"decode, batch {batch}, tok/s", "decode_ms": f"decode, batch {batch}, ms",
            "prefill_tok_s": f"prefill of {prompt}, tok/s", "first_token_ms": f"first token of {prompt}, ms",
            "workload_tok_s": "whole workload, tok/s",
        }[key]  # fmt: skip
        ratio = measured / predicted if key.endswith("_ms") else predicted / measured
        shown = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        doubt, fitted = figure.get("doubt", ""), figure.get("fitted", run.get("fitted", False))
        yield Compared(run["source"], run["model"], what, shown, predicted, ratio, doubt, fitted)


def stored_card(run: Mapping[str, Any]) -> ModelCard:
    """The run's model; of a GGUF file of which only the size is known, experts get the bits that the others leave."""
    card = read_card(CONFIGS / f"{run['model']}.json")
    if "file_gb" not in run:
        return card
    values = {"expert": 0, "other": 0}
    for tensor in card.tensors:
        if tensor.role not in ("tower", "draft"):
            values["expert" if tensor.role == "expert" else "other"] += math.prod(tensor.shape)
    bits = {"other": run["other_bits"]}
    bits["expert"] = (run["file_gb"] * 8e9 - values["other"] * bits["other"]) / values["expert"]
    tensors = []
    for tensor in card.tensors:
        size = math.prod(tensor.shape) * bits["expert" if tensor.role == "expert" else "other"] / 8
        tensors.append(replace(tensor, dtype="GGUF", nbytes=int(size)))
    return replace(card, tensors=tuple(tensors), stored="gguf")


def _speed(run: Mapping[str, Any], card: ModelCard, figure: Mapping[str, Any], **other: int) -> Speed:
    gpus = (processor(**run["processor"]),) if "processor" in run else find_gpus(run["gpus"])
    kind = "single" if len(gpus) == 1 else run.get("split", "tensor")
    layout = Layout(kind, gpus, tp=len(gpus) if kind == "tensor" else 1)
    asked = {
        "batch": figure.get("batch", 1), "context_tokens": run.get("context", 1024), "prompt_tokens": figure.get("prompt", 1024),
    } | other  # fmt: skip
    return predict(
        card, layout, quantization=run.get("quantization", "auto"), kv_dtype=run.get("kv_dtype", "auto"),
        engine=run.get("engine", "native"), graphs=run.get("graphs", True), link=link_of(gpus, run.get("pcie_gen")), **asked,
    )  # fmt: skip


def _workload(run: Mapping[str, Any], card: ModelCard) -> float:
    """256 sequences at once, prompts and answers uniform in 100 to 1024 tokens, 133,966 tokens of answers."""
    rows, least, most, answers, stride = 256, 100, 1024, 133_966, 32
    prompt = (least + most) // 2
    ms = 0.0
    for step in range(0, most, stride):
        alive = rows * min(1.0, (most - step) / (most - least))
        ms += stride * _speed(run, card, {}, batch=max(1, round(alive)), context_tokens=prompt + step).tpot_ms
    prompts = _speed(run, card, {}, prompt_tokens=16 * prompt)  # a step's worth of prompts at a time
    return 1e3 * answers / (ms + 1e3 * rows * prompt / prompts.prefill_tokens_s)


def table(lines: list[Compared], markdown: bool) -> str:
    """One line a figure; as Markdown windows of one series that differ in their tenths share one."""
    start, between, end = ("| ", " | ", " |") if markdown else ("", "  ", "")
    rows = [("source", "model", "what", "measured", "predicted", "predicted / measured speed", "")]
    for same in _series(lines) if markdown else [[line] for line in lines]:
        line, ratios = same[0], sorted(one.ratio for one in same)
        measured, ratio = line.measured, f"{ratios[0]:.2f}"
        if len(same) > 1:
            values = sorted(float(one.measured) for one in same)
            measured, ratio = f"{values[0]:g} to {values[-1]:g} ({len(same)} windows)", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        note = line.doubt or ("a constant was set with it" if line.fitted else "")
        rows.append((line.source, line.model, line.what, measured, f"{line.predicted:,.4g}", ratio, note))
    widths = [0 if markdown else max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    told = [start + between.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + end for row in rows]
    if markdown:
        told.insert(1, "| " + " | ".join("---" for _ in widths) + " |")
    return "\n".join(line.rstrip() for line in told)


def _series(lines: list[Compared]) -> list[list[Compared]]:
    """Figures in a row that are the same but for what was measured."""
    found: list[list[Compared]] = []
    for line in lines:
        last = found[-1][0] if found else None
        alike = last is not None and (last.source, last.model, last.what) == (line.source, line.model, line.what)
        if last is not None and alike and not last.doubt and not line.doubt and last.fitted == line.fitted:
            found[-1].append(line)
        else:
            found.append([line])
    return found


def main() -> None:
    """All figures, then the summary."""
    lines = compare()
    print(table(lines, "--markdown" in sys.argv))
    sure = [line for line in lines if not line.doubt]
    beyond = [f"{line.source}, {line.what}" for line in sure if not 1 / MOST_RATIO <= line.ratio <= MOST_RATIO]
    checks = [line for line in lines if not line.fitted]
    summary = {
        "figures": len(lines), "doubted": len(lines) - len(sure), "median_error": round(median_error(lines), 3),
        "median_error_of_checks": round(median_error(checks), 3), "beyond_2x": beyond,
    }  # fmt: skip
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
