"""gpt-oss (GptOssForCausalLM): alternating windows, attention sinks, biases, a mixture of experts in bf16 or MXFP4."""

from __future__ import annotations

from dataclasses import replace

from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.moe import ClampedGate, Experts, Mixture
from tokenwell.engine.layers.router import Router
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ExpertFacts, ModelFacts, Raw
from tokenwell.engine.models.decoder import Decoder, FeedForward, Style
from tokenwell.engine.models.llama import standard_facts
from tokenwell.engine.platform import accelerator
from tokenwell.engine.weights import experts, mxfp4
from tokenwell.engine.weights.source import Source


def read(raw: Raw) -> ModelFacts:
    """Facts from config.json."""
    count = raw.size("num_hidden_layers")
    types = raw.layer_types(count, ["full_attention" if index % 2 else "sliding_attention" for index in range(count)])
    window = raw.size("sliding_window", default=128)
    facts = standard_facts(
        raw, "GptOssForCausalLM", [window if kind == "sliding_attention" else None for kind in types], eps=1e-5
    )
    mixture = ExpertFacts(
        raw.size("num_local_experts", "num_experts"), raw.size("num_experts_per_tok", "experts_per_token"),
        raw.size("intermediate_size"),
    )  # fmt: skip
    layers = tuple(replace(layer, width=0, experts=True) for layer in facts.layers)
    return replace(facts, layers=layers, experts=mixture, sinks=True)


def build(build: Build, raw: Raw) -> Decoder:
    """Load the model."""
    limit = raw.number("swiglu_limit", 7.0)

    def feed_forward(build: Build, source: Source, index: int) -> FeedForward:
        return _mixture(build, source.at("mlp."), limit)

    bias = bool(raw.get("attention_bias", default=True))
    return Decoder(build, Style(qkv_bias=bias, o_bias=bias, feed_forward=feed_forward))


def _mixture(build: Build, source: Source, limit: float) -> Mixture:
    """The best few experts by router logit, shares from a softmax over those few."""
    facts, ranks = build.facts, build.ranks
    assert facts.experts is not None
    count, dim, width = facts.experts.count, facts.dim, facts.experts.width
    project = Linear.load(source, ranks, "router", dim, count, bias=True)
    stored = source.has("experts.gate_up_proj_blocks")
    packed = stored and source.recipe.keeps_packed and accelerator.kernels_reason_not(build.device) is None
    if stored and not packed:
        source.note("MXFP4 experts are held in the compute dtype: they were asked to be, or there are no kernels on this device")
    part = experts.deal(count, width, ranks.rank, ranks.world, block=mxfp4.BLOCK if stored else 1)
    weights = experts.read_gpt_oss(source.at("experts."), count, dim, width, part, packed)
    router = Router(project, facts.experts.chosen, over_chosen=True)
    return Mixture(router, Experts(*weights, ClampedGate(limit), ranks, part.experts[0]))
