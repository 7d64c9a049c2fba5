"""The standard pre-norm decoder that Llama, Mistral, Qwen2 and Qwen3 share, and gpt-oss with another feed-forward block:

    x += o(attention(rope(q), rope(k), v)),   q, k, v from norm(x)
    x += feed_forward(norm(x))

Architecture files say which biases and norms there are and which feed-forward block a layer has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from tokenwell.engine.layers.activation import gated
from tokenwell.engine.layers.embedding import Embedding, Head
from tokenwell.engine.layers.linear import Linear
from tokenwell.engine.layers.mlp import Mlp
from tokenwell.engine.layers.norm import RmsNorm
from tokenwell.engine.models.build import Build
from tokenwell.engine.run.batch import Batch
from tokenwell.engine.weights.source import Source


class FeedForward(Protocol):
    """A block of a layer."""

    def __call__(self, x: torch.Tensor, *, before: RmsNorm | None = None, plus: torch.Tensor | None = None) -> torch.Tensor:
        """plus + the block of before(x): [tokens, dim] -> [tokens, dim]"""
        ...


def dense(build: Build, source: Source, index: int, bias: bool = False) -> FeedForward:
    """The gated block under `mlp.`."""
    facts = build.facts
    activation = gated(facts.activation)
    return Mlp.load(source.at("mlp."), build.ranks, facts.dim, facts.layers[index].width, activation, bias=bias)


@dataclass(frozen=True)
class Style:
    """What differs between architectures that share this decoder."""

    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False  # RMS norm of each head's query and key before rotation
    sinks: bool = False
    feed_forward: Callable[[Build, Source, int], FeedForward] = dense


class DecoderLayer:
    """One layer, on this rank."""

    def __init__(self, build: Build, source: Source, index: int, style: Style) -> None:
        facts, layer = build.facts, build.facts.layers[index]
        attention = source.at("self_attn.")
        self.input_norm = RmsNorm.load(source, "input_layernorm", facts.dim, facts.norm_eps)
        parts = [build.query_part("q_proj", layer), build.kv_part("k_proj", layer), build.kv_part("v_proj", layer)]
        self.qkv = Linear.load_fused(attention, build.ranks, parts, facts.dim, bias=style.qkv_bias)
        width = layer.heads * layer.head_dim
        self.o = Linear.load(attention, build.ranks, "o_proj", width, facts.dim, bias=style.o_bias, split="row")
        q_norm = attention.tensor("q_norm.weight", (layer.head_dim,)) if style.qk_norm else None
        k_norm = attention.tensor("k_norm.weight", (layer.head_dim,)) if style.qk_norm else None
        sinks = attention.tensor("sinks", (layer.heads,), shard_dim=0) if style.sinks else None
        self.attention = build.attention(index, sinks=sinks, q_norm=q_norm, k_norm=k_norm)
        self.output_norm = RmsNorm.load(source, "post_attention_layernorm", facts.dim, facts.norm_eps)
        self.feed_forward = style.feed_forward(build, source, index)

    def __call__(self, x: torch.Tensor, batch: Batch, narrow: bool = False) -> torch.Tensor:
        """[tokens, dim] -> [tokens, dim]; `narrow`: only the batch's kept tokens go on once keys are written -> [kept, dim]"""
        q = self.attention.front(self.qkv(x, before=self.input_norm), batch)
        if narrow:
            x, q, batch = x[batch.keep], q[batch.keep], batch.kept()
            if not len(x):
                return x
        x = self.o(self.attention.attend(q, batch), plus=x)
        return self.feed_forward(x, before=self.output_norm, plus=x)


class Decoder:
    """The whole model on this rank: token ids to hidden states to logits."""

    def __init__(self, build: Build, style: Style, prefix: str = "model.") -> None:
        facts, source = build.facts, build.source
        body = source.at(prefix)
        self.facts = facts
        self.embedding = Embedding.load(body, "embed_tokens", facts.vocabulary, facts.dim)
        self.layers = [DecoderLayer(build, body.at(f"layers.{index}."), index, style) for index in range(len(facts.layers))]
        self.norm = RmsNorm.load(body, "norm", facts.dim, facts.norm_eps)
        self.head = Head.load(
            source, build.ranks, "lm_head", self.embedding, facts.vocabulary, facts.dim, tied=facts.tied, softcap=facts.softcap
        )
        if facts.tied:
            source.skip(r"lm_head\.weight", "the output head is tied to the embedding")
        # Old files carry them; they follow from the config.
        source.skip(r".*\.rotary_emb\.inv_freq", "rotary frequencies are computed")

    def forward(self, batch: Batch) -> torch.Tensor:
        """Write the batch's keys and values; hidden states of its kept tokens [kept, dim]."""
        x = self.embedding(batch.ids)
        for layer in self.layers[:-1]:
            x = layer(x, batch)
        return self.norm(self.layers[-1](x, batch, narrow=not batch.keep_all))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, dim] -> [rows, vocabulary], float32"""
        return self.head(hidden)
