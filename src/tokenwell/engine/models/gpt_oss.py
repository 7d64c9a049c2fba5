"""gpt-oss (GptOssForCausalLM): alternating windows, attention sinks, biases, a mixture of experts in bf16 or MXFP4."""

from __future__ import annotations

from dataclasses import replace

import torch

from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.moe import Experts
from tokenwell.engine.models.build import Build
from tokenwell.engine.models.config import ExpertFacts, ModelFacts, Raw
from tokenwell.engine.models.decoder import Decoder, FeedForward, Style
from tokenwell.engine.models.llama import standard_facts
from tokenwell.engine.weights import mxfp4, shard
from tokenwell.engine.weights.source import Source

_ALPHA = 1.702  # of the gate's sigmoid


def read(raw: Raw) -> ModelFacts:
    """Facts from config.json."""
    count = raw.size("num_hidden_layers")
    types = raw.layer_types(count, ["full_attention" if index % 2 else "sliding_attention" for index in range(count)])
    window = raw.size("sliding_window", default=128)
    facts = standard_facts(
        raw, "GptOssForCausalLM", [window if kind == "sliding_attention" else None for kind in types], eps=1e-5
    )
    experts = ExpertFacts(
        raw.size("num_local_experts", "num_experts"), raw.size("num_experts_per_tok", "experts_per_token"),
        raw.size("intermediate_size"),
    )  # fmt: skip
    layers = tuple(replace(layer, width=0, experts=True) for layer in facts.layers)
    return replace(facts, layers=layers, experts=experts)


def build(build: Build, raw: Raw) -> Decoder:
    """Load the model."""
    limit = raw.number("swiglu_limit", 7.0)

    def feed_forward(build: Build, source: Source, index: int) -> FeedForward:
        return GptOssMlp(build, source.at("mlp."), limit)

    bias = bool(raw.get("attention_bias", default=True))
    return Decoder(build, Style(qkv_bias=bias, o_bias=bias, sinks=True, feed_forward=feed_forward))


class GptOssMlp:
    """The best few experts by router logit, shares from a softmax over those few."""

    def __init__(self, build: Build, source: Source, limit: float) -> None:
        facts = build.facts
        assert facts.experts is not None
        self.chosen = facts.experts.chosen
        self.limit = limit
        self.router = Linear.load(source, build.ranks, "router", facts.dim, facts.experts.count, bias=True)
        self.experts = _load_experts(build, source.at("experts."), self.gate)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """(value + 1) * gate * sigmoid(1.702 * gate); the gate is capped above, the value on both sides."""
        gate, value = x.chunk(2, dim=-1)
        gate = gate.clamp(max=self.limit)
        value = value.clamp(-self.limit, self.limit)
        return (value + 1) * gate * torch.sigmoid(_ALPHA * gate)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, dim] -> [tokens, dim]"""
        best, chosen = self.router(x).topk(self.chosen, dim=-1)
        return self.experts(x, chosen, best.softmax(-1))


def _load_experts(build: Build, source: Source, gate: FeedForward) -> Experts:
    """Read the experts. Checkpoints interleave gate and value rows; here each half is together."""
    facts, ranks = build.facts, build.ranks
    assert facts.experts is not None
    count, dim, width = facts.experts.count, facts.dim, facts.experts.width
    keep = shard.even(width, ranks.rank, ranks.world)
    halves = [shard.strided(2 * width, ranks.rank, ranks.world, offset=offset, step=2) for offset in range(2)]
    size = keep[1] - keep[0]
    gate_up = source.empty((count, 2 * size, dim))
    gate_up_bias = source.empty((count, 2 * size))
    down = source.empty((count, dim, size))
    packed = source.has("gate_up_proj_blocks")
    for half, rows in enumerate(halves):
        place = slice(half * size, (half + 1) * size)
        source.read_into(gate_up_bias[:, place], "gate_up_proj_bias", (count, 2 * width), part=(None, rows))
        if packed:
            mxfp4.read_into(gate_up[:, place], source, "gate_up_proj", (count, 2 * width, dim), (None, rows))
        else:  # stored as [experts, in, out]
            source.read_into(gate_up[:, place].mT, "gate_up_proj", (count, dim, 2 * width), part=(None, None, rows))
    if packed:
        mxfp4.read_into(down, source, "down_proj", (count, dim, width), (None, None, keep))
    else:
        source.read_into(down.mT, "down_proj", (count, width, dim), part=(None, keep))
    down_bias = source.tensor("down_proj_bias", (count, dim))
    if ranks.rank:  # the ranks' results are summed: only one of them adds the bias
        down_bias.zero_()
    return Experts(gate_up, down, gate, ranks, gate_up_bias, down_bias)
