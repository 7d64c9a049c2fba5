"""Layouts follow from bytes and times: the rules that people know, unlike cards, and what to change where nothing fits."""

import time
from dataclasses import replace

import pytest
from tests.plan.configs import config_of

from tokenwell.plan.card import card_of
from tokenwell.plan.gpus import find_gpus, processor
from tokenwell.plan.layout import GOALS, Decision, choose
from tokenwell.plan.link import link_of
from tokenwell.wire.errors import SettingsError

# Shapes of public models: Phi-3-medium's 14B, Qwen2.5-14B, deepseek-coder-33b.
PHI_14B = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40,
    "num_attention_heads": 40, "num_key_value_heads": 10, "vocab_size": 32064, "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "torch_dtype": "float16", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
}  # fmt: skip
QWEN_14B = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48,
    "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 32768,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, "rope_theta": 1e6,
}  # fmt: skip
CODER_33B = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 7168, "intermediate_size": 19200, "num_hidden_layers": 62,
    "num_attention_heads": 56, "num_key_value_heads": 8, "vocab_size": 32256, "max_position_embeddings": 16384,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, "rope_theta": 1e5,
}  # fmt: skip
OWN = {"phi-14b": PHI_14B, "qwen-14b": QWEN_14B, "coder-33b": CODER_33B}


def decide(model: str, gpus: str, goal: str = "agents", **wanted: object) -> Decision:
    card = card_of(OWN.get(model) or config_of(model))
    return choose(card, find_gpus(gpus), goal=goal, **wanted)  # type: ignore[arg-type]


def shape(decision: Decision) -> tuple[str, int, int, int]:
    """Kind, cards, tp and replicas of the winner."""
    assert decision.best is not None, decision.reasons
    layout = decision.best.layout
    return layout.kind, len(layout.gpus), layout.tp, layout.replicas


@pytest.mark.parametrize("goal", ["agents", "latency", "throughput"])
@pytest.mark.parametrize("quantization", ["auto", "fp8"])
@pytest.mark.parametrize("model", ["Llama-3.1-8B-Instruct", "Qwen3-8B"])
def test_8b_on_two_a770_is_two_replicas(model: str, quantization: str, goal: str) -> None:
    decision = decide(model, "a770x2", goal, quantization=quantization)
    assert shape(decision) == ("replicas", 2, 1, 2)
    kinds = {candidate.layout.kind for candidate in decision.runners_up}
    assert {"single", "tensor", "layers"} <= kinds
    assert any("sums between the cards" in reason for reason in decision.reasons)


def test_14b_in_16_bits_wants_both_a770() -> None:
    decision = decide("phi-14b", "a770x2", quantization="none")
    assert shape(decision) == ("tensor", 2, 2, 1)
    assert {candidate.layout.kind for candidate in decision.refused} == {"single", "replicas"}
    # Qwen's has a fifth more vocabulary than two cards hold in 16 bits: both are wanted all the same, with fp8 weights.
    assert shape(decide("qwen-14b", "a770x2")) == ("tensor", 2, 2, 1)


def test_33b_wants_four_a770() -> None:
    assert shape(decide("coder-33b", "a770x4")) == ("tensor", 4, 4, 1)
    fewer = decide("coder-33b", "a770x2")
    assert fewer.best is None
    assert any(change.settings == {"cards": "4"} for change in fewer.changes)


def test_e4b_in_fp8_fits_one_b580_when_its_table_stays_in_host_memory() -> None:
    decision = decide("gemma-4-E4B-it", "b580", quantization="fp8")
    assert shape(decision) == ("single", 1, 1, 1)
    assert decision.best is not None
    assert decision.best.layout.offload == "lookup"
    assert decision.best.room is not None
    assert decision.best.room.window == 131072
    kept = decide("gemma-4-E4B-it", "b580", quantization="fp8", ple_offload="off")
    assert kept.best is None or (kept.best.room is not None and kept.best.room.window < 8192)


def test_e4b_on_two_b580_is_two_replicas() -> None:
    decision = decide("gemma-4-E4B-it", "b580x2", quantization="fp8", kv_dtype="fp8")
    assert shape(decision) == ("replicas", 2, 1, 2)


def test_unlike_cards_the_larger_one_serves_and_the_others_layouts_are_shown() -> None:
    decision = decide("Qwen3-8B", "rtx 3090, rtx 3060")
    assert shape(decision) == ("single", 1, 1, 1)
    assert decision.best is not None
    assert decision.best.layout.gpus[0].name == "RTX 3090"
    split = next(candidate for candidate in decision.runners_up if candidate.layout.kind == "layers")
    assert split.layout.shares[0] > split.layout.shares[1]
    assert sum(split.layout.shares) == 36
    assert not split.runs
    assert "no layer split yet" in split.reason


def test_unlike_cards_together_hold_what_neither_holds_alone() -> None:
    decision = decide("phi-14b", "rtx 3090, rtx 3060", quantization="none")
    assert decision.best is None  # 26 GiB: more than 24, less than 36
    split = next(candidate for candidate in decision.runners_up if candidate.layout.kind == "layers")
    assert not split.runs
    assert decision.changes
    elsewhere = decide("phi-14b", "rtx 3090, rtx 3060", quantization="none", engine="llama.cpp")
    assert shape(elsewhere) == ("layers", 2, 1, 1)


def test_equal_cards_among_unlike_ones_are_used_together() -> None:
    decision = decide("coder-33b", "rtx 3090, rtx 3090, rtx 3060", quantization="fp8")
    assert shape(decision) == ("tensor", 2, 2, 1)
    assert decision.best is not None
    assert {gpu.name for gpu in decision.best.layout.gpus} == {"RTX 3090"}


def test_peer_to_peer_and_nvlink_change_the_answer() -> None:
    card, cards = card_of(config_of("Llama-3.1-8B-Instruct")), find_gpus("h200x2")
    joined = choose(card, cards, goal="latency")
    assert joined.best is not None
    assert joined.best.layout.kind == "tensor"
    poor = choose(card, cards, link_of(cards, pcie_gen=3, pcie_lanes=1, p2p=False, nvlink=False), "latency")
    assert poor.best is not None
    assert poor.best.layout.kind == "replicas"


@pytest.mark.parametrize(
    ("model", "gpus", "wanted", "setting"),
    [
        ("qwen-14b", "a770x2", {"quantization": "none"}, "quantization"),
        ("coder-33b", "a770x4", {"quantization": "none"}, "quantization"),
        ("Qwen3-8B", "rtx 3070", {}, "quantization"),
        ("gpt-oss-120b", "rtx 4090", {}, "cards"),
        ("gemma-4-31B-it", "h100", {"quantization": "none", "rows": 256, "utilisation": 0.75}, "max_num_seqs"),
    ],
)
def test_where_nothing_fits_the_smallest_change_is_named(model: str, gpus: str, wanted: dict[str, object], setting: str) -> None:
    decision = decide(model, gpus, **wanted)
    assert decision.best is None
    assert setting in decision.changes[0].settings
    assert decision.changes[0].candidate.fits
    assert decision.changes[0].candidate.runs
    assert "fits" in decision.reasons[0] or "GiB" in decision.reasons[0]
    assert decision.changes[0].sentence in decision.reasons[1]
    bigger = [change for change in decision.changes if "card" in change.settings]
    assert all(change.candidate.layout.gpus[0].memory_gib > find_gpus(gpus)[0].memory_gib for change in bigger)


def test_what_the_engine_cannot_do_is_said_and_not_chosen() -> None:
    decision = decide("gpt-oss-20b", "rtx 3060")
    assert decision.best is None
    experts = decision.runners_up[0]
    assert (experts.layout.offload, experts.runs) == ("experts", False)
    assert "experts in host memory" in experts.reason
    unserved = decide("Qwen3.5-35B-A3B", "h200")
    assert unserved.best is None
    assert "does not serve Qwen3_5Moe" in unserved.reasons[0]
    assert unserved.changes == ()


def test_goals_differ() -> None:
    assert shape(decide("Llama-3.1-8B-Instruct", "rtx 3090x2", "latency"))[0] == "tensor"
    assert shape(decide("Llama-3.1-8B-Instruct", "rtx 3090x2", "throughput"))[0] == "replicas"
    longest = decide("gemma-4-31B-it", "rtx 4090x4", "context")
    assert shape(longest)[:3] == ("tensor", 4, 4)
    assert all(goal.sentence for goal in GOALS.values())


def test_wishes_are_kept() -> None:
    decision = decide("Llama-3.1-8B-Instruct", "rtx 3090x2", tp=2, window=4096, rows=8)
    assert shape(decision) == ("tensor", 2, 2, 1)
    assert decision.best is not None
    assert decision.best.room is not None
    assert decision.best.room.window == 4096
    assert (decision.best.context, decision.best.prompt) == (4096, 4096)
    forced = decide("Llama-3.1-8B-Instruct", "rtx 3090x4", replicas=2)
    assert shape(forced) in (("tensor", 4, 2, 2), ("replicas", 2, 1, 2))
    assert shape(decide("Llama-3.1-8B-Instruct", "rtx 3090x4", replicas=2, tp=2)) == ("tensor", 4, 2, 2)
    assert shape(decide("Llama-3.1-8B-Instruct", "rtx 3090x4", replicas=1, tp=1)) == ("single", 1, 1, 1)
    only = decide("Llama-3.1-8B-Instruct", "rtx 3090", quantization="none", host_gib=0.5)
    assert only.best is None
    assert "host memory" in only.reasons[0]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"goal": "fun"}, "--goal"),
        ({"tp": 3}, "--tp 3"),
        ({"window": 1 << 30}, "--max-model-len"),
        ({"kv_dtype": "int3"}, "--kv"),
    ],
)
def test_bad_wishes_are_named(wanted: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        decide("Qwen3-8B", "h200x2", **wanted)
    with pytest.raises(SettingsError, match="--gpu"):
        choose(card_of(config_of("Qwen3-8B")), ())


def test_a_cache_that_is_asked_for_is_given_or_cut() -> None:
    asked = decide("Qwen3-8B", "rtx 3090", quantization="fp8", kv_gib=2)
    assert asked.best is not None
    assert asked.best.room is not None
    assert asked.best.room.kv == 2 << 30
    assert asked.best.room.left > 2 << 30
    cut = decide("Qwen3-8B", "rtx 3090", quantization="fp8", kv_gib=200)
    assert cut.best is not None
    assert cut.best.room is not None
    assert cut.best.room.kv == cut.best.room.left
    assert any(choice.what == "kv cache cut" for choice in cut.best.room.choices)


def test_wider_numbers_and_pages_are_counted() -> None:
    cpu = processor("two cores", 20.0, 34.0, 448.0, 3.5, "a test")
    card = card_of(config_of("Qwen2.5-0.5B"))
    narrow, wide = (choose(card, (cpu,), dtype=dtype, page_tokens=pages).best for dtype, pages in (("auto", 16), ("float32", 32)))
    assert narrow is not None
    assert wide is not None
    assert narrow.room is not None
    assert wide.room is not None
    assert wide.room.weights == 2 * narrow.room.weights
    assert wide.room.page_bytes == 4 * narrow.room.page_bytes
    assert narrow.speed is not None
    assert wide.speed is not None
    assert wide.speed.tpot_ms > 1.5 * narrow.speed.tpot_ms
    with pytest.raises(SettingsError, match="--dtype"):
        choose(card, (cpu,), dtype="int7")


def test_equal_cards_may_have_less_memory_free() -> None:
    card, (gpu, _) = card_of(config_of("Qwen3-8B")), find_gpus("rtx 3090x2")
    busy = replace(gpu, memory_gib=10.0)
    decision = choose(card, (busy, gpu), quantization="none")
    assert decision.best is not None
    assert decision.best.layout.gpus[0] is gpu
    assert any(candidate.layout.kind == "replicas" for candidate in decision.refused)


def test_ranks_and_replicas_on_a_processor() -> None:
    half = processor("a core", 10.0, 17.0, 224.0, 3.5, "a test")
    card = card_of(config_of("Qwen2.5-0.5B"))
    assert shape(choose(card, (half, half), tp=2)) == ("tensor", 2, 2, 1)
    assert shape(choose(card, (half, half), replicas=2)) == ("replicas", 2, 1, 2)


def test_a_processor_is_a_card_too() -> None:
    cpu = processor("two cores", 20.0, 34.0, 448.0, 3.5, "a test")
    decision = choose(card_of(config_of("Qwen2.5-0.5B")), (cpu,))
    assert shape(decision) == ("single", 1, 1, 1)
    assert decision.best is not None
    assert decision.best.speed is not None
    assert 10 < decision.best.speed.tpot_ms < 200


@pytest.mark.parametrize(("model", "gpus"), [("gemma-4-26B-A4B", "rtx 4090x4"), ("gemma-4-31B-it", "rtx 3060x2")])
def test_a_decision_takes_little_time(model: str, gpus: str) -> None:
    decide(model, gpus)  # reads the table of cards
    started = time.process_time()
    decide(model, gpus)
    assert time.process_time() - started < 2.0
