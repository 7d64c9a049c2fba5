"""Predicted bytes against the engine itself: tiny checkpoints that are really loaded, and real shapes without their memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import Tiny
from tests.plan.configs import config_of
from tests.tiny.build import write
from tests.tiny.recipes import RECIPES
from tests.tiny.shapes import draw

from tokenwell.checkpoint.recipe import read_recipe
from tokenwell.checkpoint.shard import Cut
from tokenwell.engine.attention.triton import TritonAttention
from tokenwell.engine.load import load
from tokenwell.engine.models import build as builds
from tokenwell.engine.models import registry
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import Raw
from tokenwell.engine.platform import accelerator
from tokenwell.engine.platform.memory import tensor_bytes
from tokenwell.engine.run.parallel import Ranks
from tokenwell.engine.weights.dummy import DummyCheckpoint
from tokenwell.engine.weights.source import Source
from tokenwell.plan.bytes import kv_groups, native_bytes, weight_bytes
from tokenwell.plan.card import ModelCard, card_of, read_card
from tokenwell.plan.matrices import matrices_of
from tokenwell.plan.work import active_by_role, active_bytes, attention_flops, kv_read_bytes, matmul_flops
from tokenwell.wire.errors import SettingsError
from tokenwell.wire.messages import Choice
from tokenwell.wire.spec import EngineSpec

KV_GIB = 0.01
META = torch.device("meta")


@pytest.mark.parametrize("hub_style", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_weights_pages_and_blocks_are_those_that_the_engine_makes(name: str, hub_style: bool, tiny: Tiny) -> None:
    check_bytes(tiny(name, hub_style=hub_style))


@pytest.mark.parametrize("seed", range(16))
def test_so_they_are_for_any_shape(seed: int, tmp_path: Path) -> None:
    check_bytes(write(draw(seed), tmp_path / "checkpoint"))


def check_bytes(folder: Path) -> None:
    """What is planned for a checkpoint is what the engine makes."""
    card = read_card(folder)
    for kv_dtype in ("auto", "fp8"):
        spec = EngineSpec(str(folder), "", "", device="cpu", kv_cache_gib=KV_GIB, kv_cache_dtype=kv_dtype)
        ready = load(spec).ready
        planned = native_bytes(card, "auto", kv_dtype, device_kind="cpu")
        assert planned.weights == pytest.approx(ready.weights_bytes, rel=0.01)
        assert planned.groups == ready.groups
        assert planned.page_bytes == ready.page_bytes
        assert int(KV_GIB * 2**30) // planned.page_bytes == ready.num_pages
        assert ready.max_model_len <= card.window
        assert (card.vocabulary, card.served) == (ready.vocab_size, True)


def test_the_planned_cache_is_the_cache_that_is_made(tiny: Tiny) -> None:
    folder = tiny("gemma4-e")
    planned = native_bytes(read_card(folder), device_kind="cpu")
    spec = EngineSpec(str(folder), "", "", device="cpu", kv_plan_bytes=77 * planned.page_bytes + 5)
    ready = load(spec).ready
    assert ready.num_pages == 77
    assert any(choice.what == "kv cache" and choice.reason.startswith("as planned") for choice in ready.choices)


class Shapes(DummyCheckpoint):
    """Tensors without numbers."""

    def read(self, name: str, cut: Cut, destination: torch.Tensor) -> None:
        """Leave everything as it is."""


def built(
    config: dict[str, Any], order: str, tp: int, rank: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, Build]:
    """What a rank of an accelerator holds, on a device that has no memory."""
    monkeypatch.setattr(accelerator, "kernels_reason_not", lambda device: None)
    monkeypatch.setattr(builds, "kernels_reason_not", lambda device: None)
    monkeypatch.setattr(builds, "choose_backend", lambda spec, device: (TritonAttention(), Choice("", "triton", "")))
    monkeypatch.setattr(builds, "try_first", lambda specs, device: None)
    monkeypatch.setattr(builds, "sharing_disagreement", lambda backend, spec, device: None)
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = Shapes.open(folder)
    raw, entry = Raw(checkpoint.config), registry.find(checkpoint.config)
    source = Source(checkpoint, META, torch.bfloat16, rank, tp, read_recipe(checkpoint.config, order))
    with torch.inference_mode():
        build = Build(source, entry.read(raw), Ranks(rank, tp), 16)
        model = entry.build(build, raw)
    return tensor_bytes([model, build.folds], META), build


def of_few_layers(name: str, count: int, **changes: Any) -> dict[str, Any]:
    """A public config cut to its first layers, so that building is quick."""
    config: dict[str, Any] = json.loads(json.dumps(config_of(name)))
    text = config.get("text_config", config)
    text["num_hidden_layers"] = count
    if text.get("layer_types"):
        text["layer_types"] = [*text["layer_types"][: count - 1], "full_attention"]
    if text.get("num_kv_shared_layers"):
        text["num_kv_shared_layers"] = count // 3
    return {**config, **changes}


_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}
_PACKED = {
    "quant_method": "compressed-tensors",
    "ignore": ["lm_head"],
    "config_groups": {
        "a": {"weights": {"type": "int", "num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": True}}
    },
}
SHAPES: dict[str, tuple[str, int, str, dict[str, Any]]] = {
    "8b": ("Qwen3-8B", 3, "auto", {}),
    "8b fp8": ("Qwen3-8B", 3, "fp8", {}),
    "8b stored fp8": ("Qwen3-8B", 2, "auto", {"quantization_config": _FP8}),
    "8b awq": ("Qwen3-8B", 2, "auto", {"quantization_config": _AWQ}),
    "8b gptq": ("Qwen3-8B", 2, "auto", {"quantization_config": _GPTQ}),
    "8b packed": ("Qwen3-8B", 2, "auto", {"quantization_config": _PACKED}),
    "8b packed, not kept": ("Qwen3-8B", 2, "none", {"quantization_config": _PACKED}),
    "7b": ("Qwen2.5-7B", 2, "auto", {}),
    "llama": ("Llama-3.1-8B-Instruct", 2, "fp8", {}),
    "31b": ("gemma-4-31B-it", 6, "fp8", {}),
    "26b": ("gemma-4-26B-A4B-it", 6, "auto", {}),
    "26b fp8": ("gemma-4-26B-A4B-it", 6, "fp8", {}),
    "e4b fp8": ("gemma-4-E4B-it", 12, "fp8", {}),
    "e2b": ("gemma-4-E2B-it", 10, "auto", {}),
    "gpt-oss": ("gpt-oss-20b", 2, "auto", {}),
    "gpt-oss, not kept": ("gpt-oss-20b", 2, "none", {}),
}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("case", SHAPES)
def test_real_shapes_take_what_an_accelerator_holds(case: str, tp: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, layers, order, changes = SHAPES[case]
    config = of_few_layers(name, layers, **changes)
    held, build = built(config, order, tp, tp - 1, tmp_path, monkeypatch)
    planned = native_bytes(card_of(config), order, tp=tp)
    exact = sum(planned.by_role.values())
    assert exact == pytest.approx(held, rel=0.002)
    assert planned.weights == pytest.approx(held, rel=0.01)
    assert (planned.groups, planned.page_bytes) == (build.groups, build.page_bytes)


def test_tables_that_are_looked_up_may_leave_the_card() -> None:
    card = card_of(config_of("gemma-4-E4B-it"))
    here, there = native_bytes(card, "fp8"), native_bytes(card, "fp8", ple_offload=True)
    table = 262_144 * 42 * 256 * 2
    assert here.weights - there.weights == pytest.approx(table, rel=1e-6)
    assert there.host - here.host == table
    assert there.weights < 6 * 2**30


@pytest.fixture(scope="module")
def cards() -> Mapping[str, ModelCard]:
    names = (
        "Qwen3-8B",
        "gpt-oss-20b",
        "gemma-4-26B-A4B-it",
        "gemma-4-E4B-it",
        "gemma-4-31B-it",
        "Qwen3.5-27B",
        "Qwen3.5-35B-A3B",
    )
    return {name: card_of(config_of(name)) for name in names}


def test_a_step_reads_the_experts_that_its_rows_choose(cards: Mapping[str, ModelCard]) -> None:
    card = cards["gpt-oss-20b"]
    everything = weight_bytes(card) - 2 * 201_088 * 2880  # without the embedding
    experts = native_bytes(card).by_role["expert"]
    one = active_by_role(card, "auto", 1)
    assert one["expert"] == pytest.approx(experts * 4 / 32)
    assert active_bytes(card, "auto", 1) == pytest.approx(everything - experts * 28 / 32, rel=1e-3)
    assert active_bytes(card, "auto", 4000) == pytest.approx(everything, rel=0.02)
    assert active_by_role(card, "auto", 2)["expert"] / one["expert"] == pytest.approx(2 - 4 / 32)


def test_a_step_reads_a_table_by_rows_and_a_tied_head_whole(cards: Mapping[str, ModelCard]) -> None:
    read = active_by_role(cards["gemma-4-E4B-it"], "fp8", 3)
    assert read["head"] == 262_144 * 2560 * 2
    assert read["embedding"] == pytest.approx(3 * 2560 * 2)
    assert read["lookup"] == pytest.approx(3 * 42 * 256 * 2)
    assert "tower" not in read
    halves = active_by_role(cards["gemma-4-E4B-it"], "fp8", 3, 2)
    assert halves["head"] == read["head"] / 2


def test_weights_in_4_bits_are_half_a_byte_and_their_scales(cards: Mapping[str, ModelCard]) -> None:
    card = cards["Qwen3-8B"]
    plain, packed = active_by_role(card, "none", 1)["linear"], active_by_role(card, "int4", 1)["linear"]
    assert packed / (plain / 2) == pytest.approx(0.5 + 2 / 128, rel=1e-3)
    assert active_by_role(card, "fp8", 1)["linear"] / (plain / 2) == pytest.approx(1, rel=2e-3)


def test_keys_that_a_query_sees_are_read(cards: Mapping[str, ModelCard]) -> None:
    assert kv_read_bytes(cards["Qwen3-8B"], "auto", 1000) == 1000 * 36 * 2 * 8 * 128 * 2
    big = cards["gemma-4-31B-it"]  # kv_memory.md: 81,920 bytes a token without folding
    assert kv_read_bytes(big, "bf16", 200_001) - kv_read_bytes(big, "bf16", 200_000) == 81_920 / 2
    assert (
        kv_read_bytes(big, "bf16", 200_001, device_kind="cpu") - kv_read_bytes(big, "bf16", 200_000, device_kind="cpu") == 81_920
    )
    assert kv_read_bytes(big, "bf16", 1) < kv_read_bytes(big, "bf16", 1024) == kv_read_bytes(big, "bf16", 1025) - 40_960
    assert kv_read_bytes(big, "fp8", 5000, tp=2) == kv_read_bytes(big, "bf16", 5000) / 4
    linear = cards["Qwen3.5-27B"]  # a state whatever the context
    assert kv_read_bytes(linear, "auto", 0) == 2 * 48 * 3_207_168


def test_bytes_a_token_and_a_window_are_those_of_the_reference(cards: Mapping[str, ModelCard]) -> None:
    """kv_memory.md: per token and fixed, bf16."""
    for name, token, window in (
        ("gemma-4-31B-it", 81_920, 800 << 20), ("gemma-4-26B-A4B-it", 20_480, 200 << 20), ("gpt-oss-20b", 24_576, 3 << 20),
    ):  # fmt: skip
        groups, _ = kv_groups(cards[name], device_kind="cpu")
        assert sum(group.bytes_per_token for group in groups if group.window is None) == token
        assert sum(group.bytes_per_token * (group.window or 0) for group in groups) == window
    folded, _ = kv_groups(cards["gemma-4-31B-it"])
    assert sum(group.bytes_per_token for group in folded if group.window is None) == 81_920 / 2
    assert native_bytes(cards["Qwen3.5-35B-A3B"]).state_bytes == 30 * 2_146_304


def test_operations_are_twice_the_weights_that_serve_a_token(cards: Mapping[str, ModelCard]) -> None:
    dense = cards["Qwen3-8B"]
    linear = sum(matrix.values for matrix in matrices_of(dense) if matrix.role == "linear")
    head = dense.vocabulary * dense.hidden
    assert matmul_flops(dense, 10) == pytest.approx(20 * (linear + head))
    assert matmul_flops(dense, 10, sampled=1) == pytest.approx(20 * linear + 2 * head)
    sparse = cards["Qwen3.5-35B-A3B"]  # three of 35 thousand million serve a token
    assert 2.5e9 < matmul_flops(sparse, 1) / 2 < 3.6e9
    early = cards["gemma-4-E4B-it"]  # the last 18 of 42 layers run for sampled tokens alone
    assert matmul_flops(early, 1000, sampled=1) < 0.65 * matmul_flops(early, 1000)


@given(st.integers(1, 60), st.integers(0, 60))
def test_scores_are_those_of_the_keys_that_are_seen(tokens: int, before: int) -> None:
    card = card_of(of_few_layers("gpt-oss-20b", 2) | {"sliding_window": 12})
    context = before + tokens
    seen = sum(position + 1 + min(position + 1, 12) for position in range(before, context))
    assert attention_flops(card, tokens, context) == 4 * 64 * 64 * seen


def test_a_wrong_word_is_refused(cards: Mapping[str, ModelCard]) -> None:
    card = cards["Qwen3-8B"]
    for words in ({"quantization": "int3"}, {"kv_dtype": "fp4"}, {"dtype": "int8"}, {"quantization": "mxfp4"}):
        with pytest.raises(SettingsError):
            native_bytes(card, **words)  # type: ignore[arg-type]
