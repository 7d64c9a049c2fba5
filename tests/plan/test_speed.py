"""Predicted speeds against every measured figure, and what must hold for any model on any card."""

import pytest
from benchmarks.plan_speed import MOST_ERROR, MOST_RATIO, Compared, compare, median_error
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.configs import config_of

from tokenwell.plan.card import ModelCard, card_of
from tokenwell.plan.gpus import find_gpus, known_gpus
from tokenwell.plan.link import Layout, link_of
from tokenwell.plan.speed import Speed, predict
from tokenwell.wire.errors import SettingsError

MODELS = ("Qwen3-8B", "gpt-oss-20b", "gemma-4-26B-A4B", "gemma-4-E4B-it", "Qwen3.5-35B-A3B", "Llama-3.1-8B-Instruct")
CARDS = {name: card_of(config_of(name)) for name in MODELS}


def speed(model: str | ModelCard, gpus: str, tp: int = 1, **wanted: object) -> Speed:
    cards = find_gpus(gpus)
    layout = Layout("tensor" if tp > 1 else "single", cards, tp)
    return predict(CARDS[model] if isinstance(model, str) else model, layout, **wanted)  # type: ignore[arg-type]


FIGURES = compare()


@pytest.mark.parametrize(
    "figure", [f for f in FIGURES if not f.doubt], ids=lambda f: f"{f.source}: {f.model}, {f.what} {f.measured}"
)
def test_every_figure_that_nobody_doubts_is_within_a_factor_of_two(figure: Compared) -> None:
    assert 1 / MOST_RATIO <= figure.ratio <= MOST_RATIO


def test_the_median_error_is_small_for_all_figures_and_for_those_that_set_no_constant() -> None:
    assert median_error(FIGURES) <= MOST_ERROR
    checks = [figure for figure in FIGURES if not figure.fitted]
    assert len({(figure.source, figure.model, figure.what) for figure in checks if not figure.doubt}) >= 15
    assert median_error(checks) <= MOST_ERROR


def test_what_is_a_lower_bound_is_not_predicted_slower() -> None:
    bounds = [figure for figure in FIGURES if "at least this" in figure.doubt]
    assert len(bounds) >= 3
    assert all(figure.ratio >= 1 for figure in bounds)


def test_impossible_claims_stay_impossible() -> None:
    (claim,) = (figure for figure in FIGURES if figure.measured == "180")
    assert claim.ratio < 0.6


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(MODELS), st.sampled_from([gpu.name for gpu in known_gpus()]), st.integers(1, 256), st.integers(1, 32768),
    st.sampled_from(["none", "fp8"]), st.booleans(), st.sampled_from(["native", "vllm==0.19", "llama.cpp", "ipex-llm"]),
)  # fmt: skip
def test_times_are_sums_of_terms_and_more_work_is_never_faster(
    model: str, gpu: str, batch: int, context: int, quantization: str, graphs: bool, engine: str
) -> None:
    wanted = {"quantization": quantization if CARDS[model].stored is None else "auto", "graphs": graphs, "engine": engine}
    found = speed(model, gpu, batch=batch, context_tokens=context, prompt_tokens=context, **wanted)
    decode = sum(term.ms for term in found.terms if term.phase == "decode")
    prefill = sum(term.ms for term in found.terms if term.phase == "prefill")
    assert found.tpot_ms == pytest.approx(decode)
    assert found.ttft_ms == pytest.approx(prefill)
    assert 0 < found.tpot_ms < 1e6
    assert all(term.formula and any(c.isdigit() for c in term.formula + "0") for term in found.terms)
    more = speed(model, gpu, batch=batch + 1, context_tokens=2 * context, prompt_tokens=2 * context, **wanted)
    assert more.tpot_ms >= found.tpot_ms * 0.9999
    assert more.ttft_ms >= found.ttft_ms * 0.9999


def test_a_step_is_never_faster_than_reading_its_weights() -> None:
    for gpu in known_gpus():
        found = speed("Qwen3-8B", gpu.name, quantization="none")
        assert found.tpot_ms >= 15.1e9 / (gpu.bandwidth_gb_s * 1e9) * 1e3


def test_without_graphs_a_mixture_waits_for_the_host() -> None:
    recorded = speed("gemma-4-26B-A4B", "a100-80gb", engine="vllm==0.19")
    eager = speed("gemma-4-26B-A4B", "a100-80gb", engine="vllm==0.19", graphs=False)
    assert eager.tpot_ms > 3 * recorded.tpot_ms
    assert any(term.name == "launches" and term.ms > eager.tpot_ms / 2 for term in eager.terms)


def test_an_experts_share_grows_with_the_batch() -> None:
    one, many = (speed("gpt-oss-20b", "h200", batch=batch, context_tokens=1).tpot_ms for batch in (1, 64))
    assert many > 2 * one


def test_two_cards_are_faster_over_nvlink_and_may_be_slower_through_the_host() -> None:
    one, two = speed("Qwen3-8B", "h200"), speed("Qwen3-8B", "h200x2", tp=2)
    assert two.tpot_ms < one.tpot_ms
    cards = find_gpus("a770x2")
    alone = predict(CARDS["Llama-3.1-8B-Instruct"], Layout("single", cards[:1]), quantization="fp8", prompt_tokens=4096)
    slow = link_of(cards, pcie_gen=3, pcie_lanes=4, p2p=False)
    both = predict(
        CARDS["Llama-3.1-8B-Instruct"], Layout("tensor", cards, 2), quantization="fp8", prompt_tokens=4096, link=slow
    )  # fmt: skip
    assert both.ttft_ms > alone.ttft_ms
    assert both.tpot_ms > alone.tpot_ms


def test_a_layer_split_takes_the_time_of_all_its_parts() -> None:
    cards = find_gpus("rtx 3090, rtx 3060")
    split = predict(CARDS["Qwen3-8B"], Layout("layers", cards, shares=(24, 12)), quantization="none")
    fast, slow = (speed("Qwen3-8B", name, quantization="none").tpot_ms for name in ("rtx 3090", "rtx 3060"))
    assert fast < split.tpot_ms < slow
    assert any(term.name == "handing on" for term in split.terms)


def test_what_stays_in_host_memory_is_read_at_its_speed() -> None:
    cards = find_gpus("rtx 4090")
    on_card, offloaded = (
        predict(CARDS["gpt-oss-20b"], Layout("single", cards, offload=offload), host_gb_s=50) for offload in ("none", "experts")
    )
    assert offloaded.tpot_ms > 5 * on_card.tpot_ms
    table = predict(CARDS["gemma-4-E4B-it"], Layout("single", cards, offload="lookup"))
    assert table.tpot_ms == pytest.approx(predict(CARDS["gemma-4-E4B-it"], Layout("single", cards)).tpot_ms, rel=0.05)


def test_engines_are_named() -> None:
    with pytest.raises(SettingsError, match=r"native.*vllm"):
        speed("Qwen3-8B", "h200", engine="sglang")
