"""The plan as a whole: what is chosen, what is cut and told, and what is refused with the nearest plan that works."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from tests.plan.configs import MODELS, config_of

from tokenwell.plan import explain
from tokenwell.plan.card import card_of
from tokenwell.plan.gpus import find_gpus
from tokenwell.plan.link import link_of
from tokenwell.plan.machine import MachineCards
from tokenwell.plan.plan import Plan, Wishes, make_plan
from tokenwell.wire.errors import CapacityError

GIB = 1 << 30


def plan_of(model: str, gpus: str, **wanted: object) -> Plan:
    found = find_gpus(gpus)
    machine = MachineCards(found, tuple(range(len(found))), link_of(found), None)
    return make_plan(model, card_of(config_of(model)), machine, Wishes(**wanted))[0]  # type: ignore[arg-type]


def test_a_plan_carries_what_programs_ask_for() -> None:
    told = json.loads(json.dumps(asdict(plan_of("Qwen3-8B", "rtx 4090"))))
    assert {"model", "engine", "layout", "weights_gib", "kv", "speed", "cuts", "reasons"} <= told.keys()
    assert told["layout"].items() >= {"kind": "single", "gpus": ["RTX 4090"], "tp": 1, "replicas": 1}.items()
    assert {"available_gib", "num_blocks", "tokens", "max_concurrency"} <= told["kv"].keys()
    assert told["speed"]["ttft_ms"] > 0 < told["speed"]["tpot_ms"]


def test_the_parts_of_a_card_are_its_memory() -> None:
    plan = plan_of("Qwen3-8B", "rtx 4090")
    parts = {name: size for name, size in plan.memory_gib.items() if name != "card"}
    assert sum(parts.values()) == pytest.approx(plan.memory_gib["card"])
    assert plan.kv.num_blocks == plan.kv.planned_bytes // plan.kv.page_bytes


def test_nothing_is_cut_from_what_fits() -> None:
    assert plan_of("Qwen3-8B", "h200", max_model_len=8192, max_num_seqs=16).cuts == ()


@pytest.mark.parametrize(
    ("model", "gpus", "tokens"), [("gpt-oss-20b", "h200", 16_384), ("gpt-oss-20b", "rtx 4090", 8192), ("Qwen3-8B", "h200", 8192)]
)
def test_packed_experts_are_served_in_longer_steps_where_there_is_room(model: str, gpus: str, tokens: int) -> None:
    assert plan_of(model, gpus).max_num_batched_tokens == tokens


def test_a_window_that_does_not_fit_is_cut_and_told() -> None:
    plan = plan_of("Llama-3.1-8B-Instruct", "rtx 4090", max_model_len=131072, quantization="none")
    assert 0 < plan.max_model_len < 131072
    assert plan.cuts[0].startswith(f"max_model_len: {plan.max_model_len} instead of 131072: ")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"tp": 4}, "tp: 2 instead of 4"),
        ({"replicas": 8}, "replicas: 2 instead of 8"),
        ({"tp": 2, "replicas": 2}, "replicas: 1 instead of 2"),
    ],
)
def test_there_are_no_more_cards_than_there_are(wanted: dict[str, int], told: str) -> None:
    plan = plan_of("Qwen3-8B", "rtx 4090x2", **wanted)
    assert told in plan.cuts[0]
    assert plan.layout.tp * plan.layout.replicas == 2


def test_a_cache_larger_than_the_card_is_cut() -> None:
    plan = plan_of("Qwen3-8B", "rtx 4090", kv_gib=100.0)
    assert plan.kv.planned_bytes < 24 * GIB
    assert any(cut.startswith("kv_cache_gib: ") for cut in plan.cuts)


def test_a_precision_that_does_not_fit_is_changed_and_told() -> None:
    plan = plan_of("Llama-3.1-8B-Instruct", "rtx 3060", quantization="none")
    assert plan.quantization == "fp8"
    assert plan.cuts[0].startswith("quantization: fp8, because otherwise it does not fit on RTX 3060")


def test_what_fits_nowhere_is_refused_with_what_would_help() -> None:
    with pytest.raises(CapacityError, match=r"smallest change that would make it fit: .*RTX 3060"):
        plan_of("gemma-4-31B-it", "rtx 3060")


def test_speeds_are_told_for_what_was_asked() -> None:
    one, many = plan_of("Qwen3-8B", "h200"), plan_of("Qwen3-8B", "h200", batch=64, prompt_tokens=8192, context_tokens=2048)
    assert (many.speed.batch, many.speed.prompt_tokens, many.speed.context_tokens) == (64, 8192, 2048)
    assert many.speed.ttft_ms > one.speed.ttft_ms
    assert many.speed.tpot_ms > one.speed.tpot_ms
    assert sum(term.ms for term in many.terms if term.phase == "decode") == pytest.approx(many.speed.tpot_ms)


def test_vllm_is_planned_by_its_own_arithmetic() -> None:
    plan = plan_of("gemma-4-26B-A4B", "a100-80gb", engine="vllm==0.19", max_model_len=131072, kv_gib=21.5)
    assert plan.weights_gib == pytest.approx(48.5, rel=0.002)
    assert plan.kv.tokens == pytest.approx(93936, rel=0.001)
    assert plan.kv.max_concurrency == pytest.approx(6.96, abs=0.01)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_can_be_told_in_words(model: str) -> None:
    try:
        plan = plan_of(model, "h200x4")
    except CapacityError as error:
        assert "the native engine does not serve" in str(error)
        return
    assert explain.headline(plan)
    rows = [*explain.facts(plan), *explain.memory(plan), *explain.comparison(plan), *explain.formulas(plan)]
    assert all(isinstance(cell, str) for row in rows for cell in row)
    assert next(explain.comparison(plan))[-1] == "chosen"
