"""The benchmarks of the GPU folder run with a tiny shape on the CPU, so that they work when a card is there."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from benchmarks.gpu import decode, limit, prefill, small_engine_workload, start
from benchmarks.gpu.cases import CASES, SMALL, TINY, Case
from benchmarks.gpu.engine import Engine

TINY_ON_CPU = ["--model", "tiny", "--device", "cpu"]


def test_decode_and_its_profile(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*TINY_ON_CPU, "--batch", "2", "--prompt", "8", "--tokens", "8", "--rounds", "1", "--profile"]
    lines = decode.main(arguments)
    assert [line["batch"] for line in lines] == [2]
    tpot_ms, limit_ms, ratio = (float(str(lines[0][key])) for key in ("tpot_ms", "limit_ms", "ratio"))
    assert tpot_ms > 0 and ratio == pytest.approx(limit_ms / tpot_ms, abs=1e-2)
    assert "kernel" in capsys.readouterr().out
    arguments = [*TINY_ON_CPU, "--batch", "2", "--prompt", "8", "--tokens", "8", "--rounds", "1", "--weights", "vllm"]
    assert [line["weights"] for line in decode.main(arguments)] == ["as vLLM draws them"]


def test_prefill() -> None:
    lines = prefill.main([*TINY_ON_CPU, "--total", "64", "--rounds", "1"])
    assert [(line["prompts"], line["length"]) for line in lines] == [(1, 64), (8, 8)]
    lines = prefill.main([*TINY_ON_CPU, "--length", "16", "5", "--rounds", "1"])
    assert [(line["prompts"], line["length"]) for line in lines] == [(1, 16), (1, 5)]


def test_the_workload_of_small_engines() -> None:
    line = small_engine_workload.main([*TINY_ON_CPU, "--sequences", "5", "--shortest", "3", "--longest", "9", "--rounds", "1"])
    assert line["sequences"] == 5
    published = small_engine_workload.requests(256, 100, 1024, 151_936)
    assert sum(request.sampling.max_tokens for request in published) == 133_966


def test_an_engine_makes_room_for_the_next() -> None:
    engine = Engine(TINY.spec("cpu", max_num_seqs=2, max_model_len=32))
    assert engine.greedy(engine.prompts(2, 8, seed=0), 4).tokens == 8
    worker = weakref.ref(engine.worker)
    del engine
    gc.collect()
    assert worker() is None


def test_start_in_a_fresh_process() -> None:
    lines = start.main(["--config", str(TINY.config), "--device", "cpu", "--prompt", "8"])
    assert [line["kernel_cache"] for line in lines] == ["cold", "warm"]


@pytest.mark.parametrize(
    ("name", "milliseconds"), [("qwen3-8b", 3.5), ("gpt-oss-20b", 0.86), ("gemma-4-26b-a4b", 1.04), ("gemma-4-e4b", 1.24)]
)
def test_the_limits_are_those_that_the_issue_names(name: str, milliseconds: float) -> None:
    """Bytes of a step at batch 1 over 4.3 TB/s, without a context."""
    case = next(case for case in CASES if case.name == name)
    size = limit.step_bytes(case.config, case.quantization, 1, 1, 1)
    assert size / 4.3e12 * 1000 == pytest.approx(milliseconds, rel=0.06)


@pytest.mark.parametrize("case", [*CASES, SMALL, TINY], ids=lambda case: case.name)
def test_every_shape_is_one_that_the_engine_knows(case: Case) -> None:
    facts, _ = limit.facts_of(Path(case.config))
    assert limit.prefill_flops(case.config, 1024, 1) > 2 * facts.dim * facts.vocabulary
