"""Which models are measured, in which formats, and what vLLM 0.26.0 reached on one H200 (torch 2.11+cu130, its defaults)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenwell.wire.spec import EngineSpec

MODELS = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class Case:
    """One model as it is served."""

    name: str
    config: Path
    quantization: str = "auto"
    kv_cache_dtype: str = "auto"
    tpot_ms: Mapping[int, float] = field(default_factory=dict)  # vLLM's, by batch size
    gate_ms: Mapping[int, float] = field(default_factory=dict)  # what we must reach
    prefill_tok_s: Mapping[int, float] = field(default_factory=dict)  # vLLM's, by tokens in all

    def spec(self, device: str, prefix_cache: bool = False, **limits: int | float | bool | None) -> EngineSpec:
        """The order for an engine with random weights of this shape."""
        return EngineSpec(
            str(self.config), "", "", device=device, load_format="dummy", quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype, prefix_cache=prefix_cache, **limits,  # type: ignore[arg-type]
        )  # fmt: skip


CASES = (
    Case(
        "qwen3-8b", MODELS / "qwen3-8b.json",
        tpot_ms={1: 5.23, 8: 5.74, 64: 7.96}, gate_ms={1: 4.4, 64: 7.96}, prefill_tok_s={8192: 37_990},
    ),
    Case(
        "gpt-oss-20b", MODELS / "gpt-oss-20b.json",
        tpot_ms={1: 3.02, 8: 2.56, 64: 5.20, 256: 5.39}, gate_ms={1: 2.0, 64: 5.20},
        prefill_tok_s={8192: 72_000, 32768: 58_300},
    ),
    Case(
        "gemma-4-26b-a4b", MODELS / "gemma-4-26b-a4b.json", quantization="fp8",
        tpot_ms={1: 4.03, 8: 4.59, 64: 8.55}, gate_ms={1: 2.6, 64: 8.55}, prefill_tok_s={8192: 75_200},
    ),
    Case("gemma-4-e4b", MODELS / "gemma-4-e4b.json", quantization="fp8", kv_cache_dtype="fp8", gate_ms={1: 2.4}),
)  # fmt: skip
TINY = Case("tiny", MODELS / "tiny.json")
SMALL = Case("qwen3-0.6b", MODELS / "qwen3-0.6b.json")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which models, on which device."""
    names = [case.name for case in (*CASES, SMALL, TINY)]
    parser.add_argument("--model", action="append", choices=names, help="default: the four of the gates")
    parser.add_argument("--config", type=Path, help="another model: a config.json")
    parser.add_argument("--quantization", default=None)
    parser.add_argument("--kv-cache-dtype", default=None)
    parser.add_argument("--device", default="auto")


def chosen(options: argparse.Namespace, default: Sequence[Case] = CASES) -> list[Case]:
    """The cases that the options ask for."""
    if options.config is not None:
        return [_changed(Case(options.config.stem, options.config), options)]
    known = {case.name: case for case in (*CASES, SMALL, TINY)}
    return [_changed(known[name], options) for name in options.model] if options.model else list(default)


def _changed(case: Case, options: argparse.Namespace) -> Case:
    if options.quantization is None and options.kv_cache_dtype is None:
        return case
    quantization, kv = options.quantization or case.quantization, options.kv_cache_dtype or case.kv_cache_dtype
    return Case(f"{case.name} {quantization} kv {kv}", case.config, quantization, kv)  # not what was measured elsewhere
