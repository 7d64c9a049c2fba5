"""Qwen3, dense (Qwen3ForCausalLM) and mixture of experts (Qwen3MoeForCausalLM): Llama with normalised queries and keys."""

from __future__ import annotations

from dataclasses import replace

from tokenwell.engine.layers.activation import gated
from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.moe import Experts, Mixture
from tokenwell.engine.layers.router import Router
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ExpertFacts, ModelFacts, Raw
from tokenwell.engine.models.decoder import Decoder, FeedForward, Style, dense
from tokenwell.engine.models.llama import standard_facts
from tokenwell.engine.models.qwen2 import windows
from tokenwell.engine.weights.source import Source


def read(raw: Raw) -> ModelFacts:
    """Facts of a dense model from config.json."""
    return standard_facts(raw, "Qwen3ForCausalLM", windows(raw))


def build(build: Build, raw: Raw) -> Decoder:
    """Load a dense model."""
    bias = bool(raw.get("attention_bias", default=False))
    return Decoder(build, Style(qkv_bias=bias, o_bias=bias, qk_norm=True))


def read_moe(raw: Raw) -> ModelFacts:
    """Facts of a mixture of experts from config.json."""
    count = raw.size("num_hidden_layers")
    window = raw.size("sliding_window") if raw.get("use_sliding_window") and raw.get("sliding_window") else None
    facts = standard_facts(raw, "Qwen3MoeForCausalLM", [window] * count)
    dense_layers = set(raw.get("mlp_only_layers", default=[]))
    step = raw.size("decoder_sparse_step", default=1)
    layers = tuple(
        replace(layer, experts=index not in dense_layers and (index + 1) % step == 0) for index, layer in enumerate(facts.layers)
    )
    experts = ExpertFacts(
        raw.size("num_experts", "num_local_experts"), raw.size("num_experts_per_tok"), raw.size("moe_intermediate_size")
    )
    return replace(facts, layers=layers, experts=experts)


def build_moe(build: Build, raw: Raw) -> Decoder:
    """Load a mixture of experts."""
    bias = bool(raw.get("attention_bias", default=False))
    normalise = bool(raw.get("norm_topk_prob", default=False))

    def feed_forward(build: Build, source: Source, index: int) -> FeedForward:
        if build.facts.layers[index].experts:
            return _mixture(build, source.at("mlp."), normalise)
        return dense(build, source, index)

    return Decoder(build, Style(qkv_bias=bias, o_bias=bias, qk_norm=True, feed_forward=feed_forward))


def _mixture(build: Build, source: Source, normalise: bool) -> Mixture:
    """Softmax over all experts, the best few, their shares renormalised or not."""
    facts = build.facts
    assert facts.experts is not None
    project = Linear.load(source, build.ranks, "gate", facts.dim, facts.experts.count)
    experts = Experts.load(source, build.ranks, facts.experts.count, facts.dim, facts.experts.width, gated(facts.activation))
    return Mixture(Router(project, facts.experts.chosen, over_chosen=normalise), experts)
