"""vLLM 0.19's printed lines: five logged runs, lines of other logs that are public, and properties of the arithmetic."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.configs import MODELS, config_of

from tokenwell.plan.allocator import Made, allocated
from tokenwell.plan.card import ModelCard, card_of
from tokenwell.plan.vllm import VllmPlan, explain_printed, vllm_plan
from tokenwell.plan.vllm.cache import layout
from tokenwell.plan.vllm.device import Device
from tokenwell.wire.errors import CapacityError, CheckpointError, SettingsError, TokenwellError

MIB, GIB = 1 << 20, 1 << 30
A100_GIB, B580_GIB = 79.25, 11.33  # total memory as the drivers tell it


def card(model: str) -> ModelCard:
    return card_of(config_of(model))


@dataclass(frozen=True)
class Run:
    """What a log printed, and the settings that it was started with."""

    model: str
    weights_gib: float
    kv_gib: float
    tokens: int
    concurrency: float
    settings: dict[str, Any] = field(default_factory=dict)

    def plan(self, **more: Any) -> VllmPlan:
        return vllm_plan(card(self.model), **{"total_gib": A100_GIB, **self.settings, **more})

    def __str__(self) -> str:
        return f"{self.model}-{self.settings.get('quantization', 'as-stored')}"


E4B = Run(
    "gemma-4-E4B-it", 6.29, 1.14, 49_344, 2.15,
    {
        "quantization": "fp8", "kv_cache_dtype": "fp8", "tp": 2, "platform": "xpu", "gpu_memory_utilization": 0.8,
        "total_gib": B580_GIB,
    },
)  # fmt: skip
RUNS = (
    Run("gpt-oss-20b", 13.72, 36.56, 798_624, 11.99, {"max_model_len": 131_072, "gpu_memory_utilization": 0.65}),
    Run("gemma-4-26B-A4B", 48.5, 21.5, 93_936, 6.96, {"max_model_len": 131_072}),
    Run("gemma-4-26B-A4B", 25.7, 24.45, 106_800, 4.37, {"quantization": "fp8", "gpu_memory_utilization": 0.65}),
    Run("gemma-4-31B-it", 58.9, 15.18, 16_576, 1.23, {"max_model_len": 131_072, "gpu_memory_utilization": 0.95}),
    E4B,
)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_weights_as_printed(run: Run) -> None:
    assert run.plan().weights_gib == pytest.approx(run.weights_gib, rel=0.0005)  # asked for: 0.002


SUMS_GIB = (13.702, 48.469, 25.685, 58.831, 6.271)


@pytest.mark.parametrize(("run", "gib"), tuple(zip(RUNS, SUMS_GIB, strict=True)), ids=str)
def test_what_is_held_before_the_allocator_rounds(run: Run, gib: float) -> None:
    """Sums of tensors, rope tables, scales and buffers that were found from the logs independently."""
    assert sum(parameter.nbytes for parameter in run.plan().parameters) / GIB == pytest.approx(gib, abs=6e-4)


def test_towers_are_whole_on_every_rank_and_keep_their_dtype() -> None:
    config = config_of("gemma-4-E4B-it")
    del config["vision_config"], config["audio_config"]
    settings = {"quantization": "fp8", "tp": 2, "total_gib": 24.0}
    towers = sum(tensor.nbytes for tensor in card(E4B.model).tensors if tensor.role == "tower")
    one, without = (vllm_plan(shapes, **settings) for shapes in (card(E4B.model), card_of(config)))
    saved = sum(parameter.nbytes for parameter in one.parameters) - sum(parameter.nbytes for parameter in without.parameters)
    assert saved == towers


def test_models_in_float32_are_served_in_16_bits() -> None:
    wide = card_of(config_of("Qwen3-0.6B") | {"torch_dtype": "float32"})
    assert vllm_plan(wide, total_gib=24.0).weights_gib == vllm_plan(card("Qwen3-0.6B"), total_gib=24.0).weights_gib


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_tokens_and_concurrency_as_printed(run: Run) -> None:
    """Some number of blocks that the two-decimal memory allows prints both figures; on two cards the other one had less."""
    plan = run.plan(available_kv_gib=run.kv_gib)
    printed = plan.cache.blocks_that_print(run.tokens, run.concurrency)
    assert printed
    if run is E4B:
        assert printed[-1] < plan.num_blocks[0]
    else:
        assert set(printed) & set(range(plan.num_blocks[0], plan.num_blocks[1] + 1))
        assert plan.tokens[0] <= run.tokens <= plan.tokens[1]
        assert plan.max_concurrency[0] <= run.concurrency <= plan.max_concurrency[1]
        assert "the memory agrees" in explain_printed(plan, run.tokens, run.concurrency)


def test_the_rank_that_did_not_log_is_explained() -> None:
    plan = E4B.plan(available_kv_gib=E4B.kv_gib)
    printed = plan.cache.blocks_that_print(E4B.tokens, E4B.concurrency)
    assert (plan.cache.gib(printed[0]), plan.cache.gib(printed[-1] + 1)) == pytest.approx((1.1294, 1.1309), abs=5e-5)
    said = explain_printed(plan, E4B.tokens, E4B.concurrency)
    assert "1.1294 to 1.1309 GiB" in said
    assert "another one, which prints nothing, had 4 to 16 MiB less" in said
    assert any("the rank with the least decides" in note for note in plan.notes)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_available_memory_is_predicted_within_what_it_says(run: Run) -> None:
    low, high = run.plan().available_gib
    assert low <= run.kv_gib <= high
    assert high - low < 0.7


# Lines of public logs of other runs: (model, settings, printed GiB). Of 0.19 and of versions that hold the same tensors.
OTHER_WEIGHTS = (
    ("Qwen3-8B", {}, 15.2683),
    ("Llama-3.1-8B-Instruct", {}, 14.9889),
    ("gpt-oss-120b", {}, 65.9651),  # Marlin
    ("gpt-oss-120b", {"capability": 9.0}, 64.38),  # Triton on an H100
    ("gemma-4-E2B-it", {}, 9.8),
    ("gemma-4-31B-it", {"quantization": "fp8", "capability": 9.0}, 31.47),
    ("Qwen3.5-27B", {"capability": 9.0}, 51.1),
    ("Qwen3.5-35B-A3B", {"capability": 9.0}, 65.53),
)


@pytest.mark.parametrize(("model", "more", "printed"), OTHER_WEIGHTS)
def test_weights_of_other_logs(model: str, more: dict[str, Any], printed: float) -> None:
    assert vllm_plan(card(model), total_gib=95.0, max_model_len=8192, **more).weights_gib == pytest.approx(printed, rel=0.0005)


def test_fp8_weights_and_keys_on_a_card_that_has_fp8() -> None:
    """gemma-4-31B-it quantised while loading, fp8 keys: 57.09 GiB are 124,704 tokens."""
    plan = vllm_plan(
        card("gemma-4-31B-it"), total_gib=139.8, capability=9.0, quantization="fp8", kv_cache_dtype="fp8", available_kv_gib=57.09
    )
    assert plan.tokens[0] <= 124_704 <= plan.tokens[1]


def test_a_mixture_on_four_ranks() -> None:
    """Qwen3-30B-A3B: 14.2474 GiB a rank, printed by an earlier version."""
    config = config_of("Qwen3-8B") | {
        "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    }  # fmt: skip
    assert vllm_plan(card_of(config), total_gib=44.5, tp=4).weights_gib == pytest.approx(14.2474, rel=0.0005)


def test_recurrent_states_raise_the_attention_block() -> None:
    """Qwen3.5-27B in vLLM 0.19.0 (issue 40691): 290,864 tokens and 33.04x for 32,768. Blocks of 784 tokens, padded by 0.13 %."""
    cache = vllm_plan(card("Qwen3.5-27B"), total_gib=95.0, max_model_len=32_768, max_num_batched_tokens=16_384).cache
    kinds = {kind.name: kind for kind in cache.types}
    assert (kinds["full"].block_tokens, kinds["full"].groups, kinds["linear"].groups) == (784, 1, 3)
    assert cache.state_padding == pytest.approx(0.0013, abs=5e-5)
    assert list(cache.blocks_that_print(290_864, 33.04)) == [1487]
    assert not vllm_plan(card("Qwen3.5-27B"), total_gib=95.0, max_model_len=32_768, align=True).cache.blocks_that_print(
        290_864, 33.04
    )


def test_a_hybrid_mixture_from_its_printed_memory() -> None:
    """Qwen3.5-35B-A3B, 15.58 GiB: 203,808 tokens and 70.27x for 8,192. Blocks of 1,056 tokens, padded by 0.76 %."""
    plan = vllm_plan(card("Qwen3.5-35B-A3B"), total_gib=119.7, max_model_len=8192, capability=12.1, available_kv_gib=15.58)
    assert plan.cache.state_padding == pytest.approx(0.0076, abs=5e-5)
    assert plan.tokens == (203_808, 203_808)
    assert plan.max_concurrency[0] <= 70.27 <= plan.max_concurrency[1]
    assert any("floor" in note for note in plan.notes)


def test_layers_are_dealt_out_by_hand() -> None:
    """E2B owns keys in 15 of 35 layers, 12 of them sliding; a full layer has twice the bytes a token."""
    cache = vllm_plan(card("gemma-4-E2B-it"), total_gib=24.0).cache
    sliding, full = sorted(cache.types, key=lambda kind: kind.kind, reverse=True)
    assert (sliding.layers, sliding.groups, sliding.block_tokens) == (12, 4, 32)
    assert (full.layers, full.groups, full.block_tokens) == (3, 1, 16)
    assert cache.block_bytes == 3 * 16 * 2 * 512 * 2
    assert sliding.blocks_per_request == -(-(512 - 1 + 2048) // 32) + 1


def test_key_heads_are_copied_when_there_are_fewer_than_ranks() -> None:
    one = {kind.name: kind.token_bytes for kind in vllm_plan(card("gemma-4-26B-A4B"), total_gib=44.0).cache.types}
    four = {kind.name: kind.token_bytes for kind in vllm_plan(card("gemma-4-26B-A4B"), total_gib=44.0, tp=4).cache.types}
    assert four["sliding-1024"] * 4 == one["sliding-1024"]
    assert four["full"] * 2 == one["full"]  # two key heads on four ranks


def test_a_plain_decoder_over_two_cards() -> None:
    """Llama-3.1-8B, --tp 2, by hand: 32 layers of 4 key heads a rank, 64 KiB a token; 8.00 GiB are 131,072 tokens."""
    plan = vllm_plan(card("Llama-3.1-8B-Instruct"), total_gib=23.6, tp=2, max_model_len=8192, available_kv_gib=8.0)
    cache = plan.cache
    assert (cache.groups, cache.block_bytes) == (1, 16 * 64 * 1024)
    assert cache.tokens(cache.blocks(8 * GIB)) == 131_072
    assert cache.concurrency(cache.blocks(8 * GIB)) == 16.0
    # Half of all matrices; norms and 32 MiB of rope table are whole.
    assert plan.weights_gib == pytest.approx((14.9889 - 0.0317) / 2 + 0.0317, abs=0.002)


def test_more_decimals_leave_fewer_blocks() -> None:
    rough, fine = (RUNS[0].plan(available_kv_gib=gib) for gib in (36.56, 36.5584))
    assert rough.available_gib == (36.555, 36.565)
    assert fine.available_gib == (36.55835, 36.55845)
    assert fine.num_blocks == (99828, 99828)
    assert fine.likely == (99828, 798_624, 11.99)


def test_a_window_that_does_not_fit_is_told_with_the_longest_that_does() -> None:
    plan = vllm_plan(card("gemma-4-31B-it"), total_gib=79.25, gpu_memory_utilization=0.95)
    assert not plan.fits
    assert 100_000 < plan.longest < 262_144
    assert any(f"--max-model-len {plan.longest} fits" in note for note in plan.notes)
    again = vllm_plan(card("gemma-4-31B-it"), total_gib=79.25, gpu_memory_utilization=0.95, max_model_len=plan.longest)
    assert again.fits


def test_nothing_fits_a_card_that_is_too_small() -> None:
    plan = vllm_plan(card("gpt-oss-120b"), total_gib=24.0)
    assert (plan.available_gib, plan.num_blocks, plan.longest, plan.fits) == ((0.0, 0.0), (0, 0), 0, False)


def test_defaults_follow_the_card() -> None:
    qwen = card("Qwen3-8B")
    assert vllm_plan(qwen, total_gib=79.25).max_num_batched_tokens == 2048  # an A100
    assert vllm_plan(qwen, total_gib=79.25, capability=9.0).max_num_batched_tokens == 8192
    assert vllm_plan(qwen, total_gib=79.25, device_name="NVIDIA A800-SXM4-80GB").max_num_batched_tokens == 8192
    assert vllm_plan(qwen, total_gib=44.0, capability=8.9).max_num_batched_tokens == 2048


@pytest.mark.parametrize(
    ("model", "more", "error", "said"),
    [
        ("Qwen3-8B", {"version": "0.25"}, SettingsError, "0.19"),
        ("Qwen3-8B", {"tp": 3}, SettingsError, "--tp 3"),
        ("Qwen3-8B", {"tp": 0}, SettingsError, "--tp 0"),
        ("Qwen3-8B", {"quantization": "int4"}, SettingsError, "--quantization int4"),
        ("gpt-oss-20b", {"quantization": "fp8"}, SettingsError, "mxfp4"),
        ("Qwen3-8B", {"kv_cache_dtype": "int3"}, SettingsError, "--kv-cache-dtype"),
        ("Qwen3-8B", {"platform": "abacus"}, SettingsError, "abacus"),
        ("Qwen3-8B", {"gpu_memory_utilization": 1.5}, SettingsError, "1.5"),
        ("Qwen3-8B", {"max_model_len": 50_000}, SettingsError, "40960"),
    ],
)
def test_what_vllm_refuses_is_refused(model: str, more: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        vllm_plan(card(model), **{"total_gib": 24.0, **more})


def test_pages_that_do_not_unify_are_refused() -> None:
    config = config_of("gemma-4-31B-it")
    config["text_config"] |= {"head_dim": 192, "num_key_value_heads": 16}
    with pytest.raises(CapacityError, match="no multiple"):
        vllm_plan(card_of(config), total_gib=79.25)


def test_gguf_is_not_known() -> None:
    with pytest.raises(CheckpointError, match="GGUF"):
        vllm_plan(replace(card("Qwen3-8B"), stored="gguf"), total_gib=24.0)


# ---------------------------------------------------------------- properties

SIZES = st.one_of(st.integers(0, 4096), st.integers(0, MIB + 4096), st.integers(MIB, 64 * MIB))


@given(st.lists(st.lists(SIZES, min_size=1, max_size=3), max_size=30), st.data())
def test_the_allocator_counts_what_stays_and_little_more(forms: list[list[int]], data: st.DataObject) -> None:
    things = []
    for sizes in forms:
        begins = data.draw(st.integers(0, 40))
        things.append(Made(tuple(sizes), begins, data.draw(st.integers(begins, 40))))
    kept = [-(-max(thing.forms[-1], 1) // 512) * 512 for thing in things]
    counted = allocated(things)
    assert counted >= sum(kept)
    assert counted <= sum(kept) + MIB * sum(size > MIB for size in kept)  # only large ones have remainders
    if all(size <= MIB for size in kept):
        assert counted == sum(kept)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(MODELS), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2)), st.sampled_from(("cuda", "xpu")),
    st.integers(1, 300_000), st.integers(1, 16_384), st.integers(0, 200_000),
)  # fmt: skip
def test_figures_of_a_number_of_blocks_lead_back_to_it(
    model: str, tp: int, value_bytes: int, platform: str, window: int, step: int, blocks: int
) -> None:  # fmt: skip
    shapes = card(model)
    if any(layer.heads % tp for layer in shapes.layers):
        return
    cache = layout(shapes, tp, value_bytes, Device(platform, 24 * GIB), window, step)
    assert blocks in cache.blocks_that_print(cache.tokens(blocks), cache.concurrency(blocks))
    assert cache.blocks(blocks * cache.block_bytes) == blocks
    # Every group has a place for each of its layers, and every page holds the tokens that it says.
    per_group = max(-(-kind.layers // kind.groups) for kind in cache.types)
    assert cache.block_bytes >= per_group * cache.page_bytes
    for kind in cache.types:
        assert kind.block_tokens * kind.token_bytes <= cache.page_bytes
        assert kind.blocks_per_request >= 1


JUNK = (None, "x", -1, 0, 1.5, 1e30, float("nan"), float("inf"), [], {}, [1], {"a": 1}, True, False, 10**30, 1, 7)


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all fields of a config."""
    if not isinstance(value, dict):
        return []
    return [found for key, inner in value.items() for found in ((*path, key), *places(inner, (*path, key)))]


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(MODELS), st.data())
def test_an_absurd_field_is_answered_not_thrown(model: str, data: st.DataObject) -> None:
    config = config_of(model)
    *way, last = data.draw(st.sampled_from(places(config)))
    target = config
    for key in way:
        target = target[key]
    target[last] = data.draw(st.sampled_from(JUNK))
    with contextlib.suppress(TokenwellError):
        vllm_plan(card_of(config), total_gib=24.0)
